package block

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"

	"github.com/shoalnet/shoal/p2p/wire"
)

// ExportCAR writes roots and what their UnixFS nodes link to as a CARv1, each
// block once, in the order of roots and parents before children: the same
// roots give the same bytes. As with Pin, links inside DAG-CBOR are not
// followed.
func (s *Store) ExportCAR(ctx context.Context, w io.Writer, roots []wire.CID) error {
	cids := make([]cid.Cid, len(roots))
	for i, c := range roots {
		if _, err := hashOf(c); err != nil {
			return fmt.Errorf("export CAR: root %d: %w", i, err)
		}
		cids[i] = toCid(c)
	}
	out, err := storage.NewWritable(w, cids, car.WriteAsCarV1(true), car.UseWholeCIDs(true))
	if err != nil {
		return fmt.Errorf("export CAR: %w", err)
	}
	err = s.walk(ctx, roots, func(c wire.CID, _ hash) error {
		data, err := s.Get(ctx, c)
		if err != nil {
			return err
		}
		return out.Put(ctx, string(c), data)
	})
	if err == nil {
		err = out.Finalize()
	}
	if err != nil {
		return fmt.Errorf("export CAR: %w", err)
	}
	return nil
}

// ImportCAR stores the blocks of a CARv1 or CARv2 stream after verifying each,
// and returns the roots that the file names. It refuses more than limit bytes
// of blocks with ErrTooLarge; blocks stored before an error stay, unpinned.
func (s *Store) ImportCAR(ctx context.Context, r io.Reader, limit int64) ([]wire.CID, error) {
	in, err := car.NewBlockReader(r, car.MaxAllowedHeaderSize(8<<20), car.MaxAllowedSectionSize(MaxBlock+128))
	if err != nil {
		return nil, fmt.Errorf("import CAR: header: %w", err)
	}
	roots := make([]wire.CID, len(in.Roots))
	for i, c := range in.Roots {
		if roots[i], err = wire.CIDFromBytes(c.Bytes()); err != nil {
			return nil, fmt.Errorf("import CAR: root %d: %w", i, err)
		}
	}
	for i := 0; ; i++ {
		b, err := in.Next()
		if errors.Is(err, io.EOF) {
			return roots, nil
		}
		if err != nil {
			return nil, fmt.Errorf("import CAR: block %d: %w", i, err)
		}
		c, err := wire.CIDFromBytes(b.Cid().Bytes())
		if err != nil {
			return nil, fmt.Errorf("import CAR: block %d: %w", i, err)
		}
		if limit -= int64(len(b.RawData())); limit < 0 {
			return nil, fmt.Errorf("import CAR: block %d: %w", i, ErrTooLarge)
		}
		if err := s.PutCID(ctx, c, b.RawData()); err != nil {
			return nil, fmt.Errorf("import CAR: block %d: %w", i, err)
		}
	}
}

// toCid converts a valid CID to the IPFS libraries' type.
func toCid(c wire.CID) cid.Cid {
	v, err := cid.Cast([]byte(c))
	if err != nil {
		return cid.Undef
	}
	return v
}
