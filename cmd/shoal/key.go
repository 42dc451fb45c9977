package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/shoalnet/shoal/gpu/hf"
	"github.com/shoalnet/shoal/p2p/wire"
)

// maxKeyFile bounds a keystore file, in bytes.
const maxKeyFile = 64 << 10

// passphraseEnv names the variable that holds the passphrase; set but empty is
// the empty passphrase.
const passphraseEnv = "SHOAL_PASSPHRASE"

// keyFlags are those of every command that opens the key.
type keyFlags struct {
	passphraseFile string
}

func (k *keyFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&k.passphraseFile, "passphrase-file", "", "file with the key's passphrase (or set "+passphraseEnv+")")
}

func (a *app) keyCmd() *cobra.Command {
	return group(&cobra.Command{
		Use:   "key",
		Short: "Make, show or import this peer's key",
		Long: `One secp256k1 key is this peer's identity in the swarm (its libp2p peer ID) and
the address where it is paid. It lies in the data directory as a go-ethereum
keystore (version 3): any Ethereum wallet reads the file.`,
		Example: `  shoal key new
  shoal key show
  shoal key import wallet.json`,
	}, a.keyNewCmd(), a.keyShowCmd(), a.keyImportCmd())
}

func (a *app) keyNewCmd() *cobra.Command {
	var kf keyFlags
	var light bool
	c := &cobra.Command{
		Use:   "new",
		Short: "Make a key",
		Long: `Makes a key and encrypts it with a passphrase: from --passphrase-file, from
` + passphraseEnv + `, or typed. --light costs less memory and time to open, and to guess.`,
		Example: `  shoal key new
  shoal key new --light --passphrase-file /run/secrets/shoal
  ` + passphraseEnv + `= shoal key new --light      # no passphrase: only file permissions protect it`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			secret, err := crypto.GenerateKey()
			if err != nil {
				return fmt.Errorf("make a key: %w", err)
			}
			return a.storeKey(crypto.FromECDSA(secret), &kf, light)
		},
	}
	kf.add(c)
	c.Flags().BoolVar(&light, "light", false, "light scrypt parameters (4 MB instead of 256 MB)")
	return c
}

func (a *app) keyShowCmd() *cobra.Command {
	var kf keyFlags
	c := &cobra.Command{
		Use:     "show",
		Short:   "Print the peer ID and the address of the key",
		Example: "  shoal key show --json",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			k, err := a.openKey(&kf)
			if err != nil {
				return err
			}
			return a.showKey(k)
		},
	}
	kf.add(c)
	return c
}

func (a *app) keyImportCmd() *cobra.Command {
	var kf keyFlags
	var light bool
	var from string
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Import a key from a keystore file or a hex secret",
		Long: `FILE is a keystore (version 3) or a text file with 64 hex digits; - is standard
input. The key is stored under a passphrase of its own.`,
		Example: `  shoal key import UTC--2026-11-22T10-00-00Z--71562b71999873db5b286df957af199ec94617f7
  shoal key import secret.hex --passphrase-file new.txt
  shoal key import wallet.json --from-passphrase-file old.txt --passphrase-file new.txt`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			secret, err := a.readSecret(cmd.Context(), args[0], from)
			if err != nil {
				return err
			}
			return a.storeKey(secret, &kf, light)
		},
	}
	kf.add(c)
	c.Flags().StringVar(&from, "from-passphrase-file", "", "file with the passphrase of FILE")
	c.Flags().BoolVar(&light, "light", false, "light scrypt parameters (4 MB instead of 256 MB)")
	return c
}

// readSecret returns the 32 bytes that a keystore or hex file holds.
func (a *app) readSecret(ctx context.Context, name, passphraseFile string) ([]byte, error) {
	var b []byte
	var err error
	if name == "-" {
		name = "standard input"
		b, err = io.ReadAll(io.LimitReader(interruptible(ctx, a.in), maxKeyFile))
	} else {
		b, err = readBounded(name, maxKeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	b = bytes.TrimSpace(b)
	if !bytes.HasPrefix(b, []byte("{")) {
		secret, err := hex.DecodeString(strings.TrimPrefix(string(b), "0x"))
		if err != nil || len(secret) != 32 {
			return nil, advise(fmt.Errorf("import %s: neither a keystore nor 64 hex digits", name), "give a keystore v3 file (JSON) or a hex secret")
		}
		return secret, nil
	}
	pass := ""
	if passphraseFile != "" {
		if pass, err = passphraseOf(passphraseFile); err != nil {
			return nil, err
		}
	} else if pass, err = a.prompt("Passphrase of " + name + ": "); err != nil {
		return nil, advise(fmt.Errorf("import %s: %w", name, err), "give its passphrase with --from-passphrase-file")
	}
	secret, err := decrypt(b, pass)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	return secret, nil
}

// storeKey encrypts the secret into the data directory, never over another.
func (a *app) storeKey(secret []byte, kf *keyFlags, light bool) error {
	if _, err := os.Stat(a.path(keyFile)); err == nil {
		return advise(fmt.Errorf("%s holds a key already", a.path(keyFile)),
			"keep it (`shoal key show`), move the file away, or choose another --dir")
	}
	pass, given, err := a.givenPassphrase(kf)
	if err != nil {
		return err
	}
	if !given {
		if pass, err = a.newPassphrase(); err != nil {
			return err
		}
	}
	k, err := a.encryptKey(secret, pass, light)
	if err != nil {
		return err
	}
	if pass == "" {
		a.say("note: the key has no passphrase; only the permissions of %s protect it", a.path(keyFile))
	}
	return a.showKey(k)
}

func (a *app) encryptKey(secret []byte, pass string, light bool) (*wire.Key, error) {
	k, err := wire.NewKey(secret)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	priv, err := crypto.ToECDSA(secret)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	n, p := keystore.StandardScryptN, keystore.StandardScryptP
	if light {
		n, p = keystore.LightScryptN, keystore.LightScryptP
	}
	b, err := keystore.EncryptKey(&keystore.Key{Id: id, Address: crypto.PubkeyToAddress(priv.PublicKey), PrivateKey: priv}, pass, n, p)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, advise(fmt.Errorf("data directory: %w", err), "choose another with --dir")
	}
	if err := writeFile(a.path(keyFile), append(b, '\n'), 0o600); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return k, nil
}

// openKey decrypts the data directory's key. A light keystore is tried with
// the empty passphrase before anybody is asked.
func (a *app) openKey(kf *keyFlags) (*wire.Key, error) {
	name := a.path(keyFile)
	b, err := readBounded(name, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, advise(fmt.Errorf("no key in %s: %w", a.dir, err), "make one with `shoal key new`, or bring one with `shoal key import`")
	} else if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	pass, given, err := a.givenPassphrase(kf)
	if err != nil {
		return nil, err
	}
	if !given {
		if isLight(b) {
			if k, err := decryptKey(b, ""); err == nil {
				a.exposed(name)
				return k, nil
			}
		}
		if pass, err = a.prompt("Passphrase of " + name + ": "); err != nil {
			return nil, advise(fmt.Errorf("key %s: %w", name, err), "give the passphrase with --passphrase-file or "+passphraseEnv)
		}
	}
	k, err := decryptKey(b, pass)
	if err == nil && pass == "" {
		a.exposed(name)
	}
	if errors.Is(err, keystore.ErrDecrypt) {
		return nil, advise(fmt.Errorf("key %s: wrong passphrase", name), "try again; a forgotten passphrase cannot be recovered, `shoal key new --dir OTHER` makes another peer")
	} else if err != nil {
		return nil, advise(fmt.Errorf("key %s: %w", name, err), "the file is damaged: restore it from a backup, or move it away and make a new key")
	}
	return k, nil
}

func decryptKey(b []byte, pass string) (*wire.Key, error) {
	secret, err := decrypt(b, pass)
	if err != nil {
		return nil, err
	}
	return wire.NewKey(secret)
}

// decrypt is keystore.DecryptKey of a file that does not ask for more than a key costs.
func decrypt(b []byte, pass string) ([]byte, error) {
	c, err := costOf(b)
	switch {
	case err != nil:
		return nil, err
	case c.N < 0 || c.R < 0 || c.P < 0 || c.C < 0 || c.Len < 0 || c.Len > 64,
		c.R > 64 || c.P > 64 || c.N > maxKDF/128/max(1, c.R) || c.N*max(1, c.R)*max(1, c.P) > maxKDF/16 || c.C > maxIterations:
		return nil, fmt.Errorf("kdfparams ask for more memory or time than any wallet does (n %g, r %g, p %g, c %g)", c.N, c.R, c.P, c.C)
	}
	k, err := keystore.DecryptKey(b, pass)
	if err != nil {
		return nil, err
	}
	return crypto.FromECDSA(k.PrivateKey), nil
}

// How much a keystore may cost to open: bytes of scrypt's memory (go-ethereum's take 256 MiB) and
// iterations of PBKDF2 (others take 262,144).
const (
	maxKDF        = 1 << 30
	maxIterations = 1 << 24
)

// kdf is what a keystore says of its key derivation: of scrypt n, r and p, of PBKDF2 c.
type kdf struct {
	N   float64 `json:"n"`
	R   float64 `json:"r"`
	P   float64 `json:"p"`
	C   float64 `json:"c"`
	Len float64 `json:"dklen"`
}

func costOf(b []byte) (kdf, error) {
	var f struct {
		Crypto struct {
			KDFParams kdf `json:"kdfparams"`
		} `json:"crypto"`
	}
	err := hf.Unmarshal(b, &f)
	return f.Crypto.KDFParams, err
}

// isLight reports whether a keystore's scrypt is cheap enough to try twice.
func isLight(b []byte) bool {
	c, err := costOf(b)
	return err == nil && c.N > 0 && c.N <= keystore.LightScryptN
}

// exposed says where others on the machine can read a key without a passphrase.
func (a *app) exposed(name string) {
	if fi, err := os.Stat(name); err == nil && fi.Mode().Perm()&0o077 != 0 {
		a.say("note: %s has no passphrase, and others on this machine may read it (%s): `chmod 600` keeps them out", name, fi.Mode().Perm())
	}
}

// openOrMakeKey is openKey that makes a key without a passphrase where there
// is none: a hot node key, to join with at once.
func (a *app) openOrMakeKey(kf *keyFlags) (*wire.Key, error) {
	if _, err := os.Stat(a.path(keyFile)); err == nil {
		return a.openKey(kf)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key: %w", err)
	}
	pass, _, err := a.givenPassphrase(kf)
	if err != nil {
		return nil, err
	}
	secret, err := crypto.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	k, err := a.encryptKey(crypto.FromECDSA(secret), pass, true)
	if err != nil {
		return nil, err
	}
	a.say("made a key for this peer: %s", a.path(keyFile))
	if pass == "" {
		a.say("  it has no passphrase; only the file's permissions protect it: a node key to earn with, not to save on")
	}
	return k, nil
}

// givenPassphrase returns the one from the flag or the environment.
func (a *app) givenPassphrase(kf *keyFlags) (pass string, given bool, err error) {
	if kf.passphraseFile != "" {
		pass, err = passphraseOf(kf.passphraseFile)
		return pass, true, err
	}
	pass, given = os.LookupEnv(passphraseEnv)
	return pass, given, nil
}

func passphraseOf(file string) (string, error) {
	b, err := readBounded(file, 4096)
	if err != nil {
		return "", fmt.Errorf("passphrase: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// newPassphrase asks twice.
func (a *app) newPassphrase() (string, error) {
	pass, err := a.prompt("Passphrase for the new key (empty for none): ")
	if err != nil {
		return "", advise(fmt.Errorf("new key: %w", err), "give a passphrase with --passphrase-file or "+passphraseEnv+" (which may be empty)")
	}
	again, err := a.prompt("The same again: ")
	if err != nil {
		return "", err
	}
	if pass != again {
		return "", advise(errors.New("new key: the passphrases differ"), "run the command again")
	}
	return pass, nil
}

// prompt reads a line from the terminal without echo.
func (a *app) prompt(text string) (string, error) {
	fd := int(a.in.Fd())
	if !term.IsTerminal(fd) {
		return "", errors.New("a passphrase is needed and there is no terminal to type it at")
	}
	fmt.Fprint(a.err, line(text))
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(a.err)
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	return string(b), nil
}

func (a *app) showKey(k *wire.Key) error {
	addr, err := k.Peer().Address()
	if err != nil {
		return err
	}
	v := struct {
		Peer    wire.PeerID `json:"peer"`
		Address string      `json:"address"`
		File    string      `json:"file"`
	}{k.Peer(), common.Address(addr).Hex(), a.path(keyFile)}
	return a.show(v, fmt.Sprintf("peer     %s\naddress  %s\nfile     %s\n", v.Peer, v.Address, v.File))
}
