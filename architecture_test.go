// Package shoal_test holds the whole tree to its architecture: who may import
// whom, what a pure package may not do, and that every package explains itself.
package shoal_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/shoalnet/shoal/"

// "x: a b" means that package x may import a and b, of ours, and nothing else
// of ours. A package that is not listed fails the test: give it a line here and
// say in the commit why it is needed.
const layers = `
p2p/wire:
p2p: p2p/wire
p2p/gossip: p2p p2p/wire
p2p/block: p2p p2p/wire
p2p/p2ptest: p2p p2p/wire

diloco/codec: p2p/wire
diloco/outer: diloco/codec p2p/wire
diloco/shard: p2p/wire
diloco: p2p/wire toploc/audit

toploc:
toploc/audit: toploc p2p/wire

chain: p2p/wire
chain/chaintest: chain diloco p2p/wire
chain/settle: chain diloco p2p/wire
chain/settle/settletest: chain chain/settle diloco p2p/wire toploc/audit
chain/agent: chain chain/settle diloco p2p/wire
chain/contracts:
chain/evm: chain chain/contracts p2p/wire
chain/devchain:

gpu:
gpu/ref: gpu
gpu/cpu: gpu
gpu/gputest: gpu gpu/ref
gpu/hf:
gpu/hf/chat:
gpu/llama: gpu gpu/hf
gpu/cpu/bench: gpu gpu/cpu gpu/hf gpu/llama
gpu/worker: gpu/hf

toploc/calibrate: toploc gpu gpu/hf gpu/llama

node/manifest: p2p/wire gpu/hf toploc/audit
node/journal: p2p/wire
node/control:
node: diloco diloco/codec diloco/outer diloco/shard gpu/hf node/journal node/manifest p2p/wire toploc toploc/audit

testnet/sim: diloco p2p/wire toploc/audit chain chain/settle
testnet/cheat: node node/manifest diloco diloco/codec p2p/wire toploc toploc/audit
testnet: node node/control node/manifest p2p/wire gpu/hf diloco testnet/cheat toploc/audit
cmd/shoal: *
`

// pure packages decide; they start no goroutine, read no clock and do no I/O.
var pure = []string{
	"p2p/wire", "diloco", "diloco/codec", "diloco/outer", "diloco/shard",
	"node/manifest", "gpu/hf", "gpu/hf/chat", "gpu/ref", "toploc", "toploc/audit", "chain/settle",
}

// owners says which packages alone may import a family of libraries, and why.
var owners = []struct {
	prefix string
	who    []string
	why    string
}{
	{"github.com/libp2p/", []string{"p2p", "p2p/gossip", "p2p/block", "p2p/p2ptest"}, "the rest speaks of peers and CIDs, not of libp2p"},
	{"github.com/ipfs/boxo", []string{"p2p/block"}, "boxo has lost its maintainers: keep it behind one door"},
	{"github.com/ipfs/go-ds-flatfs", []string{"p2p/block"}, "the block store is p2p/block's"},
	{"go.etcd.io/bbolt", []string{"p2p", "p2p/block"}, "the metadata is p2p/block's"},
	{"github.com/ethereum/go-ethereum", []string{"cmd/shoal", "chain/contracts", "chain/evm", "chain/devchain"}, "keystores are the shell's; a round never waits for a chain"},
	{"gorgonia.org/cu", nil, "CUDA runs only in a worker process"},
	{"github.com/spf13/cobra", []string{"cmd/shoal"}, "only the command has commands"},
}

type pkg struct {
	ImportPath, Dir, Doc string
	GoFiles, Imports     []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		if len(p.GoFiles) > 0 {
			all = append(all, p)
		}
	}
	if len(all) < 5 {
		t.Fatalf("only %d packages found", len(all))
	}
	return all
}

func TestImports(t *testing.T) {
	allow := map[string][]string{}
	for line := range strings.Lines(layers) {
		if name, deps, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			allow[name] = strings.Fields(deps)
		}
	}
	for _, p := range packages(t) {
		deps, listed := allow[p.ImportPath]
		if !listed {
			t.Errorf("%s has no rule: add one to layers", p.ImportPath)
		}
		for _, imp := range p.Imports {
			if d, ours := strings.CutPrefix(imp, module); ours && !slices.Contains(deps, d) && !slices.Contains(deps, "*") {
				t.Errorf("%s may not import %s", p.ImportPath, d)
			}
			for _, o := range owners {
				if strings.HasPrefix(imp, o.prefix) && !slices.Contains(o.who, p.ImportPath) {
					t.Errorf("%s imports %s: only %v may (%s)", p.ImportPath, imp, o.who, o.why)
				}
			}
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	for _, p := range packages(t) {
		var with []string
		for _, f := range p.GoFiles {
			tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if tree.Doc != nil && !ast.IsGenerated(tree) {
				with = append(with, f)
			}
		}
		if len(with) != 1 {
			t.Errorf("%s: package comment in %v, want exactly one file", p.ImportPath, with)
		}
	}
}

func TestPurePackagesAreValues(t *testing.T) {
	forbiddenImports := []string{"os", "net", "net/http", "syscall", "os/exec", "crypto/rand", "math/rand", "math/rand/v2", "log", "log/slog", "context"}
	forbiddenCalls := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	for _, p := range packages(t) {
		if !slices.Contains(pure, p.ImportPath) {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(forbiddenImports, imp) {
				t.Errorf("%s is pure but imports %s", p.ImportPath, imp)
			}
		}
		for _, f := range p.GoFiles {
			fset := token.NewFileSet()
			tree, err := parser.ParseFile(fset, filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s: a pure package starts a goroutine", fset.Position(n.Pos()))
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(forbiddenCalls, n.Sel.Name) {
						t.Errorf("%s: a pure package reads the clock", fset.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}

// A package called util has no subject: its functions belong to somebody.
func TestNoPackageWithoutASubject(t *testing.T) {
	for _, p := range packages(t) {
		for _, part := range strings.Split(p.ImportPath, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helpers", "misc", "manager"}, part) {
				t.Errorf("%s: %s is not a subject", p.ImportPath, strconv.Quote(part))
			}
		}
	}
}
