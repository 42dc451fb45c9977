package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/manifest"
	"github.com/shoalnet/shoal/p2p/wire"
)

func TestSignedManifestReadsBack(t *testing.T) {
	keys := make([]*wire.Key, 2)
	for i := range keys {
		k, err := wire.NewKey(slices.Repeat([]byte{byte(7 + i)}, 32))
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = k
	}
	plain := string(manifest.Template("moby", wire.SumCID(wire.CodecRaw, []byte("tokenizer")), wire.SumCID(wire.CodecDagCBOR, []byte("data")), 65))
	set := map[string]string{"budget": "5000", "token": `"0x00000000000000000000000000000000000000aa"`, "trainers": "8000", "workers": "0", "validators": "2000", "sponsor": "0", "shares": "true"}
	once, run, err := signed(plain, set, keys[0])
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse([]byte(once))
	if err != nil {
		t.Fatal(err)
	}
	if r := m.Rewards; r.Budget != "5000" || r.Token[19] != 0xaa || r.Validators != 2000 || !r.Shares || m.Sponsor == nil {
		t.Errorf("rewards %+v, sponsor %v", r, m.Sponsor)
	}
	for l := range strings.Lines(plain) {
		if strings.HasPrefix(l, "  inner_steps") && !strings.Contains(once, l) {
			t.Errorf("the line %q is lost", l)
		}
	}
	twice, again, err := signed(once, nil, keys[0]) // signing again changes nothing
	if err != nil || again != run || twice != once {
		t.Errorf("signed again: %v, the same run %v, the same text %v", err, again == run, twice == once)
	}
	if _, another, err := signed(once, nil, keys[1]); err != nil || another == run {
		t.Errorf("another sponsor: %v, the same run %v", err, another == run)
	}
	if _, _, err := signed("nonsense: 1\n", nil, keys[0]); err == nil {
		t.Error("nonsense was signed")
	}
}
