package outer

import (
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/diloco/codec"
)

var update = flag.Bool("update", false, "rewrite testdata/golden.txt: every run's lineage breaks, so only with a new version of the protocol")

const goldenFile = "testdata/golden.txt"

const goldenHead = `# SHA-256 of θ ‖ m (float32, little-endian) after rounds of outer steps.
# Inputs are made of integers: see golden_test.go. Each architecture must find these digests.
`

// digests runs rounds of outer steps for each kind of payload, with error feedback,
// unequal weights, late payloads, an attacker and an empty round.
func digests(t *testing.T) string {
	var out strings.Builder
	out.WriteString(goldenHead)
	for _, s := range []codec.Spec{{Kind: codec.Int8}, {Kind: codec.Int4}, {Kind: codec.TopK, Density: 156}, {Kind: codec.TopK, Density: 1250}, {Kind: codec.Int4, Chunk: 64}} {
		c := newCodec(t, s, codec.Layout{5000, 64, 1, 9000})
		n := c.Params()
		theta, mom := vector(1, n, 0), make([]float32, n)
		feedback := make([]*codec.Feedback, 5)
		for i := range feedback {
			feedback[i] = codec.NewFeedback(c)
		}
		for round := range 8 {
			var in []Input
			for i := range feedback {
				exp := -7 + (round+i)%3
				if i == 4 {
					exp = -2
				}
				h := header(i, round)
				d, err := feedback[i].Encode(h, vector(uint64(100*round+i), n, exp))
				if err != nil {
					t.Fatal(err)
				}
				if (round+i)%4 == 3 { // not merged: its content comes again
					if _, err := feedback[i].Fold(d); err != nil {
						t.Fatal(err)
					}
					continue
				}
				feedback[i].Merged(h.Parent)
				in = append(in, Input{d, uint64(1000*(i+1)) >> (round % 3)})
			}
			if round == 5 {
				in = nil
			}
			if err := Step(theta, mom, in, Config{LR: 0.7, Momentum: 0.9}); err != nil {
				t.Fatal(err)
			}
		}
		h := sha256.New()
		for _, v := range [][]float32{theta, mom} {
			for _, x := range v {
				h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(x)))
			}
		}
		fmt.Fprintf(&out, "%v chunk %d density %d: %x\n", s.Kind, c.Spec().Chunk, s.Density, h.Sum(nil))
	}
	return out.String()
}

func TestGolden(t *testing.T) {
	got := digests(t)
	if *update {
		if err := os.WriteFile(goldenFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s/%s finds other digests:\n%swant\n%s", runtime.GOARCH, runtime.Version(), got, want)
	}
}

// TestGoldenElsewhere runs the golden digests and the codec's vectors as binaries of other
// architectures, where compilers fuse multiplications and additions unless told otherwise.
func TestGoldenElsewhere(t *testing.T) {
	if testing.Short() {
		t.Skip("builds test binaries for other architectures: left out with -short")
	}
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: needs linux, bit-identity across architectures is not checked")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("SKIPPED: the go command is not on PATH, bit-identity across architectures is not checked")
	}
	for _, x := range []struct{ name, goarch, level, runner string }{
		{"amd64-v1", "amd64", "GOAMD64=v1", ""},
		{"amd64-v3", "amd64", "GOAMD64=v3", ""},
		{"arm64", "arm64", "GOARM64=v8.0", "qemu-aarch64"},
	} {
		t.Run(x.name, func(t *testing.T) {
			var runner []string
			switch {
			case x.goarch == runtime.GOARCH:
			case x.runner == "":
				t.Skipf("SKIPPED: nothing here runs %s, its bits are not checked", x.goarch)
			default:
				path, err := exec.LookPath(x.runner)
				if err != nil {
					if path, err = exec.LookPath(x.runner + "-static"); err != nil {
						t.Skipf("SKIPPED: %s is not on PATH (package qemu-user), the bits of %s are not checked", x.runner, x.goarch)
					}
				}
				runner = []string{path}
			}
			for _, p := range []struct{ dir, tests string }{{".", "^TestGolden$"}, {"../codec", "^(TestVectors|TestOneEncoding)$"}} {
				bin := filepath.Join(t.TempDir(), "test")
				build := exec.Command("go", "test", "-vet=off", "-c", "-o", bin, ".")
				build.Dir = p.dir
				build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+x.goarch, x.level)
				if out, err := build.CombinedOutput(); err != nil {
					t.Fatalf("build: %v\n%s", err, out)
				}
				args := append(runner, bin, "-test.run", p.tests, "-test.v")
				run := exec.Command(args[0], args[1:]...)
				run.Dir = p.dir
				out, err := run.CombinedOutput()
				if strings.Contains(string(out), "can only be run on AMD64 processors with") {
					t.Skip("SKIPPED: this processor is below " + x.level)
				}
				if err != nil || !strings.Contains(string(out), "--- PASS") {
					t.Errorf("%s: %v\n%s", p.dir, err, out)
				}
			}
		})
	}
}
