package manifest

import (
	_ "embed"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/p2p/wire"
)

//go:embed template.yaml
var template string

// Template returns a commented manifest to edit: a small model that two cores
// can train. Undefined CIDs and a vocab of 0 leave the fields to be filled in by
// hand; Parse then names them.
func Template(name string, tokenizer, data wire.CID, vocab int) []byte {
	text := func(c wire.CID) string {
		if !c.Defined() {
			return `""`
		}
		return c.String()
	}
	return []byte(strings.NewReplacer(
		"NAME", name, "TOKENIZER", text(tokenizer), "DATA", text(data), "VOCAB", strconv.Itoa(vocab),
	).Replace(template))
}
