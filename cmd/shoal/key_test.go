package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A keystore that would take all memory or time is refused before it does.
func TestKeystoreCost(t *testing.T) {
	t.Setenv(passphraseEnv, "")
	dir := t.TempDir()
	name := filepath.Join(dir, keyFile)
	file := func(kind, params string) []byte {
		return fmt.Appendf(nil, `{"version":3,"id":"12345678-1234-1234-1234-123456789012","address":"00","crypto":{"kdf":%q,"kdfparams":{%s,"salt":"00"},
"cipher":"aes-128-ctr","ciphertext":"00","cipherparams":{"iv":"00000000000000000000000000000000"},"mac":"00"}}`, kind, params)
	}
	for _, c := range [][3]string{
		{"scrypt", `"n":1099511627776,"r":8,"p":1,"dklen":32`, "more memory or time"},
		{"scrypt", `"n":1e300,"r":1e300,"p":1e300,"dklen":32`, "more memory or time"},
		{"scrypt", `"n":262144,"r":1073741824,"p":1,"dklen":32`, "more memory or time"},
		{"scrypt", `"n":4096,"r":8,"p":9999999,"dklen":32`, "more memory or time"},
		{"scrypt", `"n":1048576,"r":8,"p":64,"dklen":32`, "more memory or time"},
		{"scrypt", `"n":-1,"r":8,"p":1,"dklen":32`, "more memory or time"},
		{"scrypt", `"n":4096,"r":8,"p":1,"dklen":99999999999`, "more memory or time"},
		{"pbkdf2", `"c":99999999999,"prf":"hmac-sha256","dklen":32`, "more memory or time"},
		{"pbkdf2", `"c":-5,"prf":"hmac-sha256","dklen":32`, "more memory or time"},
		{"scrypt", `"n":"many","r":8,"p":1,"dklen":32`, "damaged"},
		{"scrypt", `"n":0,"r":8,"p":1,"dklen":32`, "damaged"},
		{"scrypt", `"n":4096,"r":0,"p":0,"dklen":32`, "damaged"},
		{"scrypt", `"n":4096.5,"r":8,"p":1,"dklen":32`, ""},
		{"scrypt", `"n":262144,"r":8,"p":1,"dklen":32`, "wrong passphrase"}, // what go-ethereum writes
		{"pbkdf2", `"c":262144,"prf":"hmac-sha256","dklen":32`, "wrong passphrase"},
	} {
		b := file(c[0], c[1])
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, said, code := shoal(t, dir, "key", "show"); code != 1 || !strings.Contains(said, c[2]) {
			t.Errorf("%s: exit %d, want %q: %s", c[1], code, c[2], said)
		}
		if took := time.Since(start); took > 30*time.Second { // a second for the dearest
			t.Errorf("%s took %v", c[1], took)
		}
		if c[2] == "more memory or time" {
			if _, said, code := shoal(t, filepath.Join(dir, "other"), "key", "import", name, "--from-passphrase-file", os.DevNull); code != 1 || !strings.Contains(said, c[2]) {
				t.Errorf("import of %s: exit %d: %s", c[1], code, said)
			}
		}
	}
}

// A key that nothing but its permissions protects says where these do not.
func TestExposedKey(t *testing.T) {
	t.Setenv(passphraseEnv, "")
	dir := t.TempDir()
	shoal(t, dir, "key", "new", "--light")
	for mode, warns := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true} {
		if err := os.Chmod(filepath.Join(dir, keyFile), mode); err != nil {
			t.Fatal(err)
		}
		for _, env := range []bool{true, false} {
			if !env {
				os.Unsetenv(passphraseEnv) // t.Setenv puts it back
			} else if err := os.Setenv(passphraseEnv, ""); err != nil {
				t.Fatal(err)
			}
			if _, said, code := shoal(t, dir, "key", "show"); code != 0 || strings.Contains(said, "chmod 600") != warns {
				t.Errorf("mode %v: exit %d: %s", mode, code, said)
			}
		}
	}
}
