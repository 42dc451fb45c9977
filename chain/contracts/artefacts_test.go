package contracts

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What is committed belongs together: nobody has changed a source, or an
// artefact, without making the others again.
func TestArtefactsAreOfTheseSources(t *testing.T) {
	list, err := os.ReadFile("artefacts.sha256")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for line := range strings.Lines(string(list)) {
		want, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed = append(listed, name)
		b, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if h := sha256.Sum256(b); hex.EncodeToString(h[:]) != want {
			t.Errorf("%s has changed: run `make contracts` and commit what it makes", name)
		}
	}
	for _, pattern := range []string{"src/*.sol", "abi/*.abi", "bin/*.bin"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) < 10 {
			t.Fatalf("%s: %v, %v", pattern, names, err)
		}
		for _, n := range names {
			if !slices.Contains(listed, n) {
				t.Errorf("%s is not in artefacts.sha256: run `make contracts`", n)
			}
		}
	}
	bound := map[string]string{"Token": TokenMetaData.Bin, "Timelock": TimelockMetaData.Bin, "Council": CouncilMetaData.Bin, "Staking": StakingMetaData.Bin,
		"ShareFactory": ShareFactoryMetaData.Bin, "Shares": SharesMetaData.Bin, "Runs": RunsMetaData.Bin, "Settlement": SettlementMetaData.Bin,
		"Disputes": DisputesMetaData.Bin, "Equivocation": EquivocationMetaData.Bin, "Vouchers": VouchersMetaData.Bin, "Convictions": ConvictionsMetaData.Bin}
	names, err := filepath.Glob("bin/*.bin")
	if err != nil || len(names) != len(bound) {
		t.Fatalf("%d compiled contracts and %d bindings: %v", len(names), len(bound), err)
	}
	for name, meta := range bound {
		bin, err := os.ReadFile("bin/" + name + ".bin")
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimPrefix(meta, "0x") != strings.TrimSpace(string(bin)) {
			t.Errorf("the binding of %s has other code than bin/%s.bin", name, name)
		}
	}
}

// nodeModules is where solc and OpenZeppelin are, "" where they are not.
func nodeModules() string {
	for _, dir := range []string{os.Getenv("SHOAL_NODE_MODULES"), "."} {
		if _, err := os.Stat(filepath.Join(dir, "node_modules", "solc")); dir != "" && err == nil {
			if abs, err := filepath.Abs(dir); err == nil {
				return abs
			}
		}
	}
	return ""
}

// Compiling again gives the committed bytes.
func TestCompileAgain(t *testing.T) {
	dir := nodeModules()
	if dir == "" {
		t.Skip("SKIPPED: the contracts were NOT compiled again: no solc; `npm install` in chain/contracts or set SHOAL_NODE_MODULES")
	}
	if testing.Short() {
		t.Skip("SKIPPED: -short: the contracts were NOT compiled again")
	}
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "node", "compile.mjs", out)
	cmd.Env = append(os.Environ(), "SHOAL_NODE_MODULES="+dir)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	for _, pattern := range []string{"abi/*.abi", "bin/*.bin"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			want, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(out, n)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: compiled again it differs (%v)", n, err)
			}
		}
	}
}
