package block

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/shoalnet/shoal/p2p/wire"
)

// pattern is data that any language makes in one line.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + i>>10)
	}
	return b
}

// The CIDs were computed with ipfs-unixfs-importer 17.1.1 (JavaScript) in its
// profile unixfs-v1-2025.
func TestGoldenCIDs(t *testing.T) {
	s := open(t, t.TempDir(), Options{wrap: inMemory})
	ctx := t.Context()
	for size, want := range map[int]string{
		0:               "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
		1:               "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu",
		chunkSize:       "bafkreift3s536ygui53nuhgsgxo7cnpg3aoffpxgopxqzxzkcqrsxmo3vm",
		chunkSize + 1:   "bafybeihijh6cvnasjpseqll47ddixyrgsfcziescvsf2o5qvuprs6jo3fu",
		5*chunkSize - 3: "bafybeiejuxf2cwhqefm6dx3yfbuzeaimzeofgu6yba245nb7nwudmsqtyi",
	} {
		c, err := s.PutFile(ctx, pattern(size))
		if err != nil || c.String() != want {
			t.Errorf("%d bytes: %s, want %s (%v)", size, c, want, err)
		}
		if got, err := s.GetFile(ctx, c, int64(size)); err != nil || !bytes.Equal(got, pattern(size)) {
			t.Errorf("%d bytes come back as %d: %v", size, len(got), err)
		}
		if _, err := s.GetFile(ctx, c, int64(size)-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d bytes with a limit of one less: %v", size, err)
		}
	}
	for size, want := range map[int]string{ // leaves of one byte: wide trees
		1024: "bafybeib3wpz5kr5cdrfhgv5xtl3h4h4u575wfjmbtli4qsxtrqs4le6dpy",
		1025: "bafybeid3fzn3hhoh4l4wbl2il5yguyhp5vpdzvhkukubgckebjl74jqkfq",
		2049: "bafybeibw7ii73waxuw6xwtk3smkhldxa4dgmmyrj7impkihblawgbgmlcy",
	} {
		p, err := newBuilder(s, 1, fanout).file(ctx, readChunks(bytes.NewReader(pattern(size))))
		if err != nil || p.cid.String() != want {
			t.Errorf("%d leaves: %s, want %s (%v)", size, p.cid, want, err)
		}
	}
	files := map[string][]byte{"a": nil, "model.safetensors": pattern(3 << 20), "B": []byte("b"), "é": []byte("utf-8")}
	dir, err := s.PutDir(ctx, readers(files))
	if want := "bafybeiaq6pn7pd3z2uucjxv4stu7rbsdgfrvasydffc37uupkw24qzzgy4"; err != nil || dir.String() != want {
		t.Errorf("directory: %s, want %s (%v)", dir, want, err)
	}
	if got, err := s.GetDir(ctx, dir, 4<<20); err != nil || !maps.EqualFunc(got, files, bytes.Equal) {
		t.Errorf("directory does not come back: %v", err)
	}
	if _, err := s.GetDir(ctx, dir, 3<<20); !errors.Is(err, ErrTooLarge) {
		t.Errorf("directory over the limit: %v", err)
	}
	links := map[string]wire.CID{}
	entries, err := s.List(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		links[e.Name] = e.CID
	}
	if c, err := s.PutLinks(ctx, links); err != nil || c != dir {
		t.Errorf("directory of links: %s, want %s (%v)", c, dir, err)
	}
	if empty, err := s.PutDir(ctx, nil); err != nil || empty.String() != "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354" {
		t.Errorf("empty directory: %s (%v)", empty, err)
	}
}

type noDAG struct{ ipld.DAGService }

func (noDAG) Add(context.Context, ipld.Node) error       { return nil }
func (noDAG) AddMany(context.Context, []ipld.Node) error { return nil }

// Trees of several levels are those of boxo's importer.
func TestTreesAreBoxos(t *testing.T) {
	s := open(t, t.TempDir(), Options{wrap: inMemory})
	for n := range 120 {
		for _, width := range []int{2, 3, 5} {
			p := helpers.DagBuilderParams{
				Maxlinks: width, RawLeaves: true, Dagserv: noDAG{},
				CidBuilder: cid.V1Builder{Codec: cid.DagProtobuf, MhType: 0x12},
			}
			db, err := p.New(chunk.NewSizeSplitter(bytes.NewReader(pattern(n)), 1))
			if err != nil {
				t.Fatal(err)
			}
			want, err := balanced.Layout(db)
			if err != nil {
				t.Fatal(err)
			}
			size, err := want.Size()
			if err != nil {
				t.Fatal(err)
			}
			got, err := newBuilder(s, 1, width).file(t.Context(), chunksOf(pattern(n)))
			if err != nil || string(got.cid) != want.Cid().KeyString() || got.tsize != size {
				t.Fatalf("%d leaves, width %d: %s (%d), want %s (%d): %v", n, width, got.cid, got.tsize, want.Cid(), size, err)
			}
		}
	}
}

func TestBadNames(t *testing.T) {
	s := open(t, t.TempDir(), Options{wrap: inMemory})
	leaf := put(t, s, []byte("x"))
	for _, name := range []string{"", ".", "..", "a/b", "/etc/passwd", "..\\x", "a\x00b", "\xff", strings.Repeat("n", 256)} {
		if _, err := s.PutDir(t.Context(), readers(map[string][]byte{name: nil})); err == nil {
			t.Errorf("put: name %q accepted", name)
		}
		n := node{typ: typeDirectory, links: []link{{leaf, name, 1}}}
		if _, err := decodeNode(n.encode()); !errors.Is(err, ErrBadDAG) {
			t.Errorf("get: name %q: %v", name, err)
		}
	}
	for _, names := range [][]string{{"b", "a"}, {"a", "a"}} {
		n := node{typ: typeDirectory, links: []link{{leaf, names[0], 1}, {leaf, names[1], 1}}}
		if _, err := decodeNode(n.encode()); !errors.Is(err, ErrBadDAG) {
			t.Errorf("entries %v: %v", names, err)
		}
	}
	many := map[string]wire.CID{}
	for i := range 5000 {
		many[strings.Repeat("n", 40)+string(rune('a'+i%26))+strings.Repeat("x", i/26)[:min(i/26, 200)]] = leaf
	}
	if _, err := s.PutLinks(t.Context(), many); err != nil && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrBadDAG) {
		t.Error(err)
	}
}

// hostile is a root that no honest client makes, with the blocks below it.
type hostile struct {
	name   string
	shape  shape
	make   func(put func(uint64, []byte) wire.CID) wire.CID
	errs   []error
	noRead bool // the store's reader takes it, only fetching refuses
}

var hostiles = []hostile{
	{"size lies: root says more", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		leaf := put(wire.CodecRaw, []byte("four"))
		n := node{typ: typeFile, size: 8, sizes: []uint64{8}, links: []link{{leaf, "", 4}}}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"size lies: inner node says less", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		leaf := put(wire.CodecRaw, []byte("four"))
		in := node{typ: typeFile, size: 4, sizes: []uint64{4}, links: []link{{leaf, "", 4}}}
		n := node{typ: typeFile, size: 3, sizes: []uint64{3}, links: []link{{put(wire.CodecDagPB, in.encode()), "", 4}}}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"sum is not the size", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		leaf := put(wire.CodecRaw, []byte("four"))
		n := node{typ: typeFile, size: 5, sizes: []uint64{4}, links: []link{{leaf, "", 4}}}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"sizes overflow", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		leaf := put(wire.CodecRaw, []byte("four"))
		n := node{typ: typeFile, size: 0, sizes: []uint64{1 << 63, 1 << 63}, links: []link{{leaf, "", 4}, {leaf, "", 4}}}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"no part may be empty", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		c := put(wire.CodecRaw, nil)
		for range 10 { // 1,000^10 visits
			n := node{typ: typeFile}
			for range 1000 {
				n.links, n.sizes = append(n.links, link{c, "", 0}), append(n.sizes, 0)
			}
			c = put(wire.CodecDagPB, n.encode())
		}
		return c
	}, []error{ErrBadDAG}, false},
	{"a bomb: one leaf a billion times", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		c, size := put(wire.CodecRaw, pattern(1000)), uint64(1000)
		for range 3 {
			n := node{typ: typeFile}
			for range 1000 {
				n.links, n.sizes, n.size = append(n.links, link{c, "", 0}), append(n.sizes, size), n.size+size
			}
			c, size = put(wire.CodecDagPB, n.encode()), n.size
		}
		return c
	}, []error{ErrTooLarge}, false},
	{"dust: a leaf for every byte", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		leaf := put(wire.CodecRaw, []byte{1})
		c, size := leaf, uint64(1)
		for range 2 {
			n := node{typ: typeFile}
			for range 1000 {
				n.links, n.sizes, n.size = append(n.links, link{c, "", 0}), append(n.sizes, size), n.size+size
			}
			c, size = put(wire.CodecDagPB, n.encode()), n.size
		}
		return c
	}, []error{ErrBadDAG}, false},
	{"a chain too deep", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		c := put(wire.CodecRaw, []byte("x"))
		for range 40 {
			n := node{typ: typeFile, size: 1, sizes: []uint64{1}, links: []link{{c, "", 1}}}
			c = put(wire.CodecDagPB, n.encode())
		}
		return c
	}, []error{ErrBadDAG}, false},
	{"a link to DAG-CBOR", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		n := node{typ: typeFile, size: 1, sizes: []uint64{1}, links: []link{{put(wire.CodecDagCBOR, []byte{0}), "", 1}}}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"directory in a directory", aDir, func(put func(uint64, []byte) wire.CID) wire.CID {
		in := node{typ: typeDirectory}
		n := node{typ: typeDirectory, links: []link{{put(wire.CodecDagPB, in.encode()), "d", 4}}}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"file as a directory", aDir, func(put func(uint64, []byte) wire.CID) wire.CID {
		n := node{typ: typeFile}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"directory as a file", aFile, func(put func(uint64, []byte) wire.CID) wire.CID {
		n := node{typ: typeDirectory}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"directory that says it is huge", aDir, func(put func(uint64, []byte) wire.CID) wire.CID {
		n := node{typ: typeDirectory, links: []link{{put(wire.CodecRaw, []byte("x")), "a", math.MaxUint64}, {put(wire.CodecRaw, []byte("y")), "b", math.MaxUint64}}}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrTooLarge}, true},
	{"sharded directory", aDir, func(put func(uint64, []byte) wire.CID) wire.CID {
		n := node{typ: typeHAMT}
		return put(wire.CodecDagPB, n.encode())
	}, []error{ErrBadDAG}, false},
	{"not protobuf", aDir, func(put func(uint64, []byte) wire.CID) wire.CID {
		return put(wire.CodecDagPB, bytes.Repeat([]byte{0xff}, 100))
	}, []error{ErrBadDAG}, false},
	{"raw block as a directory", aDir, func(put func(uint64, []byte) wire.CID) wire.CID {
		return put(wire.CodecRaw, []byte("x"))
	}, []error{ErrBadDAG}, false},
}

func isOneOf(err error, targets []error) bool {
	return slices.ContainsFunc(targets, func(e error) bool { return errors.Is(err, e) })
}

// Every hostile DAG is refused, by the reader and by the plan of a fetch, after
// few blocks.
func TestHostileDAGs(t *testing.T) {
	const limit = 2 << 20
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			s := open(t, t.TempDir(), Options{wrap: inMemory})
			blocks := map[wire.CID][]byte{}
			root := h.make(func(codec uint64, data []byte) wire.CID {
				c, err := s.Put(t.Context(), codec, data)
				if err != nil {
					t.Fatal(err)
				}
				blocks[c] = data
				return c
			})
			var err error
			if h.shape == aDir {
				_, err = s.GetDir(t.Context(), root, limit)
			} else {
				_, err = s.GetFile(t.Context(), root, limit)
			}
			if !isOneOf(err, h.errs) && !h.noRead {
				t.Errorf("read: %v", err)
			}
			p, err := newPlan(root, h.shape, limit)
			queue := []wire.CID{root}
			met := 0
			for err == nil && len(queue) > 0 && met < 5000 {
				var more []wire.CID
				more, err = p.arrived(queue[0], blocks[queue[0]])
				queue = append(queue[1:], more...)
				met++
			}
			if !isOneOf(err, h.errs) && h.name != "dust: a leaf for every byte" {
				t.Errorf("fetch: %v after %d blocks", err, met)
			}
			if met > 100 {
				t.Errorf("%d blocks were taken", met)
			}
		})
	}
}

func TestForeignFiles(t *testing.T) {
	s := open(t, t.TempDir(), Options{wrap: inMemory})
	ctx := t.Context()
	// Leaves wrapped in UnixFS, as older clients make them.
	leaf := appendBytes(nil, 1, string(appendUint(appendBytes(appendUint(nil, 1, typeFile), 2, "abc"), 3, 3)))
	c, err := s.Put(ctx, wire.CodecDagPB, leaf)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.GetFile(ctx, c, 10); err != nil || string(got) != "abc" {
		t.Errorf("%q, %v", got, err)
	}
	n := node{typ: typeFile, size: 6, sizes: []uint64{3, 3}, links: []link{{c, "", 9}, {c, "", 9}}}
	root, _ := s.Put(ctx, wire.CodecDagPB, n.encode())
	if got, err := s.GetFile(ctx, root, 10); err != nil || string(got) != "abcabc" {
		t.Errorf("%q, %v", got, err)
	}
}

// Whatever decodes is consistent, and what we would write of it decodes to the
// same.
func FuzzNode(f *testing.F) {
	leaf := wire.SumCID(wire.CodecRaw, []byte("x"))
	f.Add((&node{typ: typeDirectory, links: []link{{leaf, "a", 1}, {leaf, "b", 1}}}).encode())
	f.Add((&node{typ: typeFile, size: 5, sizes: []uint64{2, 3}, links: []link{{leaf, "", 1}, {leaf, "", 1}}}).encode())
	f.Add([]byte{0x0a, 0x02, 0x08, 0x01})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decodeNode(b)
		if err != nil {
			return
		}
		sum := uint64(len(n.data))
		for _, s := range n.sizes {
			sum += s
		}
		if n.typ != typeDirectory && (sum != n.size || len(n.links) != len(n.sizes)) {
			t.Fatalf("inconsistent: %+v", n)
		}
		if len(n.data) > 0 {
			return // we never write such
		}
		again, err := decodeNode(n.encode())
		if err != nil || !slices.Equal(again.links, n.links) || !slices.Equal(again.sizes, n.sizes) || again.size != n.size {
			t.Fatalf("%+v comes back as %+v, %v", n, again, err)
		}
	})
}

// A fetch's plan takes any bytes under any node without harm.
func FuzzPlan(f *testing.F) {
	leaf := wire.SumCID(wire.CodecRaw, []byte("x"))
	f.Add((&node{typ: typeDirectory, links: []link{{leaf, "a", 1}}}).encode(), []byte("x"))
	f.Add((&node{typ: typeFile, size: 1, sizes: []uint64{1}, links: []link{{leaf, "", 1}}}).encode(), []byte("x"))
	f.Fuzz(func(t *testing.T, node, leaf []byte) {
		root := wire.SumCID(wire.CodecDagPB, node)
		for _, shape := range []shape{aFile, aDir, oneBlock} {
			p, err := newPlan(root, shape, 1000)
			if err != nil {
				t.Fatal(err)
			}
			more, err := p.arrived(root, node)
			for _, c := range more {
				if err == nil {
					_, err = p.arrived(c, leaf)
				}
			}
			if err == nil && p.data > 1000 {
				t.Fatalf("%d bytes promised over the limit", p.data)
			}
		}
	})
}

// readers are the files as PutDir takes them.
func readers(files map[string][]byte) map[string]io.Reader {
	out := make(map[string]io.Reader, len(files))
	for name, data := range files {
		out[name] = bytes.NewReader(data)
	}
	return out
}
