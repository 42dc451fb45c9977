package block

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"

	"github.com/shoalnet/shoal/p2p/wire"
)

func TestCAR(t *testing.T) {
	ctx := t.Context()
	a, b := open(t, t.TempDir(), Options{wrap: inMemory}), open(t, t.TempDir(), Options{wrap: inMemory})
	file, err := a.PutFile(ctx, bytesOf(1, 3<<20))
	if err != nil {
		t.Fatal(err)
	}
	commit, _ := a.Put(ctx, wire.CodecDagCBOR, []byte{0xa0})
	same, _ := a.Put(ctx, wire.CodecRaw, []byte{0xa0}) // one content, two CIDs
	roots := []wire.CID{commit, same, file, commit}
	var one, two bytes.Buffer
	if err := a.ExportCAR(ctx, &one, roots); err != nil {
		t.Fatal(err)
	}
	_ = a.ExportCAR(ctx, &two, roots)
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two exports differ")
	}
	if one.Len() > 3<<20+2000 {
		t.Errorf("%d bytes: blocks are written twice", one.Len())
	}
	got, err := b.ImportCAR(ctx, bytes.NewReader(one.Bytes()), 4<<20)
	if err != nil || !slices.Equal(got, roots) {
		t.Fatalf("%v, %v", got, err)
	}
	if data, err := b.GetFile(ctx, file, 3<<20); err != nil || !bytes.Equal(data, bytesOf(1, 3<<20)) {
		t.Error(err)
	}
	if !b.Has(commit) || !b.Has(same) {
		t.Error("blocks are missing")
	}

	if _, err := b.ImportCAR(ctx, bytes.NewReader(one.Bytes()), 3<<20); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the limit: %v", err)
	}
	for _, n := range []int{0, 1, 20, one.Len() / 2, one.Len() - 1} {
		if _, err := b.ImportCAR(ctx, bytes.NewReader(one.Bytes()[:n]), 4<<20); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	bad := bytes.Clone(one.Bytes())
	bad[len(bad)-5] ^= 1
	if _, err := b.ImportCAR(ctx, bytes.NewReader(bad), 4<<20); err == nil {
		t.Error("flipped bit accepted")
	}
	if err := a.ExportCAR(ctx, &two, []wire.CID{wire.SumCID(wire.CodecRaw, []byte("absent"))}); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent root: %v", err)
	}
}

func FuzzImportCAR(f *testing.F) {
	data := []byte("block")
	var b bytes.Buffer
	c := toCid(wire.SumCID(wire.CodecRaw, data))
	w, err := storage.NewWritable(&b, []cid.Cid{c}, car.WriteAsCarV1(true))
	if err == nil {
		err = w.Put(f.Context(), c.KeyString(), data)
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{})
	s := open(f, f.TempDir(), Options{wrap: inMemory, Quota: 1 << 20, Grace: -1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := s.ImportCAR(t.Context(), bytes.NewReader(b), 10_000); err != nil {
			return
		}
		if s.Usage().Bytes > 1<<20 {
			t.Fatal("over the quota")
		}
	})
}

func FuzzPin(f *testing.F) {
	f.Add(encodePin([]wire.CID{wire.SumCID(wire.CodecRaw, nil), wire.SumCID(wire.CodecDagPB, []byte{1})}))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		roots, err := decodePin(b)
		if err == nil && !bytes.Equal(encodePin(roots), b) {
			t.Fatalf("%x is not the encoding of %v", b, roots)
		}
	})
}
