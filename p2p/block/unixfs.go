package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/shoalnet/shoal/p2p/wire"
)

// The parameters of the profile unixfs-v1-2025 (IPIP-499), and our bounds on
// what others made.
const (
	chunkSize  = 1 << 20 // bytes in a leaf
	fanout     = 1024    // links in a file node
	maxDepth   = 16      // levels of nodes
	maxEntries = 8192    // entries in a directory
	maxName    = 255     // bytes in an entry's name
	maxPut     = 256 << 10
)

// UnixFS types (unixfs.proto, Data.DataType).
const (
	typeRaw       = 0
	typeDirectory = 1
	typeFile      = 2
	typeHAMT      = 5
)

// node is a decoded dag-pb block with its UnixFS data.
type node struct {
	links []link
	typ   uint64
	data  []byte   // bytes of the file in the node itself
	size  uint64   // of the file, in bytes; 0 in a directory
	sizes []uint64 // of the file's part below each link
}

// link is a dag-pb PBLink.
type link struct {
	cid   wire.CID
	name  string
	tsize uint64 // bytes of all blocks below the link, by the writer's word
}

// Protobuf, as far as dag-pb needs it. Field numbers and wire types:
//
//	PBNode { 2: PBLink*, 1: bytes Data }    (links first: canonical dag-pb)
//	PBLink { 1: bytes Hash, 2: string Name, 3: uint64 Tsize }
//	Data   { 1: enum Type, 2: bytes Data, 3: uint64 filesize, 4: uint64* blocksizes }
func appendBytes(b []byte, field uint64, v string) []byte {
	b = binary.AppendUvarint(b, field<<3|2)
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

func appendUint(b []byte, field, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, field<<3), v)
}

// encode returns the canonical bytes of n. Directory links must be sorted.
func (n *node) encode() []byte {
	var b, l []byte
	for _, k := range n.links {
		l = appendBytes(l[:0], 1, string(k.cid))
		l = appendBytes(l, 2, k.name)
		l = appendUint(l, 3, k.tsize)
		b = appendBytes(b, 2, string(l))
	}
	d := appendUint(nil, 1, n.typ)
	if n.typ != typeDirectory {
		d = appendUint(d, 3, n.size)
		for _, s := range n.sizes {
			d = appendUint(d, 4, s)
		}
	}
	return appendBytes(b, 1, string(d))
}

// field is one field of a protobuf message.
type field struct {
	num  uint64
	uint uint64 // wire type 0
	buf  []byte // wire type 2, else nil
}

var errProto = errors.New("malformed protobuf")

// fields splits a message and calls f for each field. It accepts the wire
// types 0, 2 and 5; 5 is UnixFS's mtime and is skipped.
func fields(b []byte, f func(field) error) error {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 || key>>3 == 0 {
			return errProto
		}
		b = b[n:]
		x := field{num: key >> 3}
		switch key & 7 {
		case 0:
			x.uint, n = binary.Uvarint(b)
			if n <= 0 {
				return errProto
			}
			b = b[n:]
		case 2:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return errProto
			}
			x.buf = b[n : n+int(size) : n+int(size)]
			b = b[n+int(size):]
		case 5:
			if len(b) < 4 {
				return errProto
			}
			b = b[4:]
			continue
		default:
			return errProto
		}
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

// decodeNode parses a dag-pb block of at most MaxBlock bytes that holds a
// UnixFS file or a plain directory. What it returns is consistent in itself:
// one size per link, their sum the file's size, no empty part; directory names
// plain, sorted and unique. Errors wrap ErrBadDAG.
func decodeNode(b []byte) (*node, error) {
	n, err := parseNode(b)
	if err == nil {
		err = n.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadDAG, err)
	}
	return n, nil
}

func parseNode(b []byte) (*node, error) {
	if len(b) > MaxBlock {
		return nil, ErrTooLarge
	}
	n := &node{typ: 1 << 32}
	var data []byte
	err := fields(b, func(f field) error {
		switch {
		case f.num == 1 && f.buf != nil && data == nil:
			data = f.buf
		case f.num == 2 && f.buf != nil:
			l, err := parseLink(f.buf)
			if err != nil {
				return fmt.Errorf("link %d: %w", len(n.links), err)
			}
			n.links = append(n.links, l)
		default:
			return errProto
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if data == nil {
		return nil, errors.New("node without UnixFS data")
	}
	hasSize := false
	err = fields(data, func(f field) error {
		switch {
		case f.num == 1 && f.buf == nil:
			n.typ = f.uint
		case f.num == 2 && f.buf != nil:
			n.data = f.buf
		case f.num == 3 && f.buf == nil:
			n.size, hasSize = f.uint, true
		case f.num == 4 && f.buf == nil:
			n.sizes = append(n.sizes, f.uint)
		case f.num < 5: // known fields in unknown form (packed sizes too)
			return errProto
		}
		return nil
	})
	if !hasSize {
		n.size = uint64(len(n.data))
	}
	return n, err
}

func parseLink(b []byte) (l link, err error) {
	err = fields(b, func(f field) (err error) {
		switch {
		case f.num == 1 && f.buf != nil:
			l.cid, err = wire.CIDFromBytes(f.buf)
		case f.num == 2 && f.buf != nil:
			if len(f.buf) > maxName {
				return fmt.Errorf("name of %d bytes", len(f.buf))
			}
			l.name = string(f.buf)
		case f.num == 3 && f.buf == nil:
			l.tsize = f.uint
		default:
			return errProto
		}
		return err
	})
	if err == nil && !l.cid.Defined() {
		err = errors.New("no CID")
	}
	if c := l.cid.Codec(); err == nil && c != wire.CodecRaw && c != wire.CodecDagPB {
		err = fmt.Errorf("codec 0x%x inside UnixFS", c)
	}
	return l, err
}

// check refuses what is not a file or plain directory, or contradicts itself.
func (n *node) check() error {
	switch n.typ {
	case typeFile, typeRaw:
		return n.checkFile()
	case typeDirectory:
		return n.checkDirectory()
	case typeHAMT:
		return errors.New("sharded directories are not supported")
	}
	return fmt.Errorf("UnixFS type %d is neither file nor directory", n.typ)
}

func (n *node) checkFile() error {
	if len(n.sizes) != len(n.links) {
		return fmt.Errorf("%d links and %d sizes", len(n.links), len(n.sizes))
	}
	if len(n.links) > 0 && len(n.data) > 0 {
		return errors.New("file node with both data and links")
	}
	sum := uint64(len(n.data))
	for i, s := range n.sizes {
		if s == 0 || s > 1<<62 || sum > 1<<62 {
			return fmt.Errorf("part %d has an impossible size", i)
		}
		sum += s
	}
	if sum != n.size {
		return fmt.Errorf("file says %d bytes, its parts sum to %d", n.size, sum)
	}
	return nil
}

func (n *node) checkDirectory() error {
	if len(n.links) > maxEntries {
		return fmt.Errorf("directory with %d entries, the limit is %d", len(n.links), maxEntries)
	}
	if len(n.data) > 0 || len(n.sizes) > 0 {
		return errors.New("directory with file data")
	}
	for i, l := range n.links {
		if err := checkName(l.name); err != nil {
			return err
		}
		if i > 0 && n.links[i-1].name >= l.name {
			return fmt.Errorf("entry %q is out of order or double", l.name)
		}
	}
	return nil
}

// checkName refuses what cannot be a plain file's name on every system that
// we write directories on.
func checkName(s string) error {
	switch {
	case s == "" || s == "." || s == ".." || len(s) > maxName,
		strings.ContainsAny(s, "/\\\x00"), !utf8.ValidString(s):
		return fmt.Errorf("%q is not a plain file name", s)
	}
	return nil
}
