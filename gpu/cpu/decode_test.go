package cpu

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDecodeGenerated holds the assembly of decoding to its generator.
func TestDecodeGenerated(t *testing.T) {
	b, err := os.ReadFile("asm/decode/main.go")
	if err != nil {
		t.Fatal(err)
	}
	tables, err := os.ReadFile("decode_tables_amd64.go")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("// Generator: %x", sha256.Sum256(b)); !strings.Contains(string(tables), want) {
		t.Error("gpu/cpu/asm/decode has changed since decode_amd64.s was written: run go generate in gpu/cpu")
	}
}
