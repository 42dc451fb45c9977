package manifest

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/p2p/wire"
)

var (
	rawCID  = wire.SumCID(wire.CodecRaw, []byte("x")).String()
	pbCID   = wire.SumCID(wire.CodecDagPB, []byte("x")).String()
	someone = `"0x0100000000000000000000000000000000000000"`
)

// wrong holds, for each field, values that it must refuse. "-" leaves the field
// out; "A=B" after a value sets another field first, see abbreviated.
var wrong = map[string][]string{
	"version":                                    {"2", "one", "[1]", "0"},
	"name":                                       {"-", "Moby", "a b", `""`, "{}", "-x", strings.Repeat("a", 65)},
	"licence":                                    {"-", "[MIT]", `"a;b"`, strings.Repeat("M", 65)},
	"task":                                       {"rl", "finetune", "7"},
	"sponsor.address":                            {"zero", `"0x12"`, `"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed"`},
	"sponsor.signature":                          {"7", `"0x1234"`, `"0x` + strings.Repeat("g", 130) + `"`},
	"model.config.architectures":                 {"[GPT2LMHeadModel]", "LlamaForCausalLM", "[]"},
	"model.config.hidden_size":                   {"-", "0", "-64", "131073", "64.5", `"64"`, "999999999999999999999", "0x40", "010", "nan"},
	"model.config.intermediate_size":             {"-", "0", "524289", "many"},
	"model.config.num_hidden_layers":             {"-", "1025", "-1", "[2]"},
	"model.config.num_attention_heads":           {"-", "1025", "3", "yes"},
	"model.config.num_key_value_heads":           {"3", "8", "-4", "1025"},
	"model.config.head_dim":                      {"15", "0x10", "4097", "-2"},
	"model.config.vocab_size":                    {"-", "0", "1048577", "eighty"},
	"model.config.max_position_embeddings":       {"0", "16777217", "-1", "{}"},
	"model.config.rms_norm_eps":                  {"0", "-1e-5", "0.2", ".nan", "tiny"},
	"model.config.rope_theta":                    {"0", "1e13", ".inf", "[]"},
	"model.config.tie_word_embeddings":           {"1", "yes", `"true"`},
	"model.config.bos_token_id":                  {"85", "-1", "a"},
	"model.config.eos_token_id":                  {"[85]", "[-1]", "3", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"},
	"model.config.attention_bias":                {`1`, `maybe`, `true model.config.architectures=[Qwen2ForCausalLM]`},
	"model.config.mlp_bias":                      {`0`, `"true"`, `true model.config.architectures=[Qwen3ForCausalLM]`},
	"model.config.sliding_window":                {`8`, `-1 QWEN WINDOWED`, `16777217 QWEN WINDOWED`, `8 QWEN model.config.layer_types=[full_attention,full_attention]`, `wide`},
	"model.config.layer_types":                   {`[full_attention]`, `[sliding_attention,chunked_attention] QWEN model.config.sliding_window=8`, `[sliding_attention] QWEN model.config.sliding_window=8`, `sliding_attention`, `[[a]]`},
	"model.config.rope_scaling.rope_type":        {`su FACTOR`, `"" FACTOR`, `default FACTOR`, `[]`, `yarn FACTOR model.config.rope_theta=1 model.config.rope_scaling.original_max_position_embeddings=32`, `dynamic FACTOR model.config.head_dim=2`},
	"model.config.rope_scaling.factor":           {`0.5 RS=linear`, `- RS=yarn`, `1e7 RS=llama3`, `.nan RS=linear`, `two`},
	"model.config.rope_scaling.low_freq_factor":  {`1 RS=linear FACTOR`, `4 RS=llama3 FACTOR model.config.rope_scaling.high_freq_factor=4 model.config.rope_scaling.original_max_position_embeddings=32`, `low`},
	"model.config.rope_scaling.high_freq_factor": {`1 RS=yarn FACTOR model.config.rope_scaling.original_max_position_embeddings=32`, `1e7 RS=llama3 FACTOR model.config.rope_scaling.low_freq_factor=1`, `high`},
	"model.config.rope_scaling.original_max_position_embeddings": {`- RS=yarn FACTOR`, `-1 RS=yarn FACTOR`, `16777217 RS=yarn FACTOR`, `32 RS=linear FACTOR`, `32.5`, `1 RS=longrope FACTOR LISTS`},
	"model.config.rope_scaling.attention_factor":                 {`1 RS=linear FACTOR`, `-1 RS=yarn FACTOR`, `1e7 RS=yarn FACTOR`, `x`},
	"model.config.rope_scaling.beta_fast":                        {`32 RS=linear FACTOR`, `1e-4 RS=yarn FACTOR`, `fast`},
	"model.config.rope_scaling.beta_slow":                        {`1 RS=dynamic FACTOR`, `-1 RS=yarn FACTOR`, `[]`},
	"model.config.rope_scaling.mscale":                           {`1 RS=linear FACTOR`, `1e9 RS=yarn FACTOR`, `{}`},
	"model.config.rope_scaling.mscale_all_dim":                   {`1 RS=linear FACTOR`, `1e9 RS=yarn FACTOR`, `~`},
	"model.config.rope_scaling.truncate":                         {`false RS=linear FACTOR`, `0`, `no`},
	"model.config.rope_scaling.short_factor":                     {`[1,1] RS=linear FACTOR`, `[1,1,1] RS=longrope FACTOR model.config.rope_scaling.original_max_position_embeddings=32`, `[0,1,1,1,1,1,1,1] RS=longrope FACTOR model.config.rope_scaling.long_factor=[1,1,1,1,1,1,1,1] model.config.rope_scaling.original_max_position_embeddings=32`, `1`, `["1"]`},
	"model.config.rope_scaling.long_factor":                      {`[1,1] RS=linear FACTOR`, `- RS=longrope FACTOR LISTS`, `[1e7,1,1,1,1,1,1,1] RS=longrope FACTOR LISTS`, `{}`},
	"model.base":                                                 {rawCID, "bafyx", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnHYuY", "[1]"},
	"model.seed":                                                 {"-1", "18446744073709551616", "1.5"},
	"tokenizer":                                                  {"-", "tokenizer.json", "DATA", "12"},
	"data":                                                       {"-", rawCID, pbCID, "{}"},
	"inner.optimizer":                                            {"sgd", "AdamW", "[]"},
	"inner.lr":                                                   {"-", "0", "-0.1", "12", ".nan", "fast"},
	"inner.min_lr":                                               {"-0.1", "0.006", "-0.0", ".inf"},
	"inner.beta1":                                                {"1", "-0.1", "x"},
	"inner.beta2":                                                {"1", "-0.1", "true"},
	"inner.eps":                                                  {"0", "0.2", `"1e-8"`},
	"inner.weight_decay":                                         {"-0.1", "11", "~"},
	"inner.clip":                                                 {"-1", "1e7", "a"},
	"inner.warmup":                                               {"-1", "601", "1.5", "1000000000001"},
	"inner.schedule":                                             {"linear", `""`, "5"},
	"inner.steps":                                                {"-5", "1000000000001", "all"},
	"inner.decay_steps":                                          {"5", "-1", "0 inner.schedule=wsd", "580 inner.schedule=wsd"},
	"inner.batch":                                                {"-", "0", "-8", "65537", "2097152"},
	"inner.sequence":                                             {"-", "0", "65", "-1", "1048577"},
	"inner.separator":                                            {"85", "-1", "1.5", `"</s>"`, "[1]", "9223372036854775808", "~"},
	"outer.lr":                                                   {"0", "2.1", "-0.7"},
	"outer.momentum":                                             {"1", "-0.1", "heavy"},
	"outer.nesterov":                                             {"false", "no", "1"},
	"round.inner_steps":                                          {"-", "0", "100001", "-1"},
	"round.deadline":                                             {"0s", "60", "25h", "-1m", "soon", "[1s]", "10ms", "2s verification.audit_rate=1"},
	"round.late_rounds":                                          {"-1", "0", "65", "2s", "64 verification.audit_rate=1"},
	"round.drop_after":                                           {"0", "10001", "-3"},
	"round.leak_after":                                           {"0", "10001", "never"},
	"codec.kind":                                                 {"int16", `""`, "[]"},
	"codec.chunk":                                                {"0", "1000", "32", "8192"},
	"codec.density":                                              {"156", "-1", "0 codec.kind=topk", "10001 codec.kind=topk", "dense"},
	"admission.kind":                                             {"closed", `""`, "{}"},
	"admission.min_peers":                                        {"0", "-1", "4097", "two"},
	"admission.allow":                                            {"[" + someone + "]", "[] admission.kind=allow", "[" + someone + "," + someone + "] admission.kind=allow", "all"},
	"admission.min_stake":                                        {"5", "-5", "0 admission.kind=stake", "1e18 admission.kind=stake", "007 admission.kind=stake"},
	"verification.audit_rate":                                    {"10001", "-1", "1%", "1 round.inner_steps=3073"},
	"verification.segments":                                      {"0", "65", "half"},
	"verification.window":                                        {"1", "65", "-8", "5 verification.audit_rate=1"},
	"verification.tolerance.exponents":                           {"129", "-1", "1.5"},
	"verification.tolerance.mantissa_mean":                       {"128", "-1", "x"},
	"verification.tolerance.mantissa_median":                     {"128", "-1", "{}"},
	"rewards.budget":                                             {"-1", "1.5", "ten", "115792089237316195423570985008687907853269984665640564039457584007913129639936"},
	"rewards.token":                                              {someone, "0x12", "zero rewards.budget=5", "[]"},
	"rewards.trainers":                                           {"10001", "-1", "all"},
	"rewards.workers":                                            {"10001", "-1", "half"},
	"rewards.validators":                                         {"10001", "-1", "[]"},
	"rewards.sponsor":                                            {"10001", "-1", "~"},
	"rewards.shares":                                             {"maybe", "1", "[]"},
	"stop.rounds":                                                {"-", "0", "10000001", "-30"},
}

var abbreviated = strings.NewReplacer(
	"RS=", "model.config.rope_scaling.rope_type=",
	"FACTOR", "model.config.rope_scaling.factor=2",
	"QWEN", "model.config.architectures=[Qwen3ForCausalLM]",
	"WINDOWED", "model.config.layer_types=[full_attention,sliding_attention]",
	"LISTS", "model.config.rope_scaling.short_factor=[1,1,1,1,1,1,1,1] model.config.rope_scaling.long_factor=[1,1,1,1,1,1,1,1] model.config.rope_scaling.original_max_position_embeddings=32",
)

// paths lists the fields of a struct.
func paths(t reflect.Type, prefix string, out []string) []string {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		ft := t.Field(i).Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct {
			out = paths(ft, prefix+name+".", out)
		} else {
			out = append(out, prefix+name)
		}
	}
	return out
}

// Every field of the schema is tried with at least two wrong values, and each
// error names the field.
func TestEachFieldWrong(t *testing.T) {
	all := paths(reflect.TypeFor[Manifest](), "", nil)
	if len(all) != len(wrong) {
		t.Errorf("the schema has %d fields, the table %d", len(all), len(wrong))
	}
	for _, path := range all {
		if len(wrong[path]) < 2 {
			t.Errorf("%s has %d wrong values, want 2 or more", path, len(wrong[path]))
		}
		for _, text := range wrong[path] {
			y := goodYAML()
			value, also, ok := strings.Cut(text, " ")
			if !ok || !strings.Contains(also, "=") && !strings.Contains(also, "FACTOR") && !strings.Contains(also, "QWEN") {
				value, also = text, ""
			}
			for _, e := range strings.Fields(abbreviated.Replace(also)) {
				k, v, _ := strings.Cut(e, "=")
				y = edit(t, y, k, v)
			}
			if value == "zero" {
				value = `"0x0000000000000000000000000000000000000000"`
			}
			_, err := Parse(edit(t, y, path, value))
			var p Problems
			if !errors.As(err, &p) {
				t.Errorf("%s: %s: %v", path, text, err)
				continue
			}
			named := false
			for _, x := range p {
				named = named || x.Path == path || strings.HasPrefix(x.Path, path+"[")
				if x.Line == 0 && value != "-" {
					t.Errorf("%s: %s: %q has no line", path, text, x)
				}
			}
			if !named {
				t.Errorf("%s: %s: the error names another field: %v", path, text, err)
			}
		}
	}
}

func TestProblemsAreCollectedInOrder(t *testing.T) {
	y := edit(t, goodYAML(), "inner.lr", "12")
	y = edit(t, y, "stop.rounds", "0")
	y = edit(t, y, "inner.momentum", "0.9")
	y = edit(t, y, "name", "Bad Name")
	y = edit(t, y, "License", "MIT")
	_, err := Parse(y)
	var p Problems
	if !errors.As(err, &p) {
		t.Fatal(err)
	}
	var got []string
	for _, x := range p {
		got = append(got, x.Path)
	}
	if want := []string{"name", "inner.lr", "inner.momentum", "stop.rounds", "License"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q: %v", got, want, err)
	}
	for _, want := range []string{"inner.lr: 12 is above the limit of 1 (line ", "inner.momentum: unknown field", "License: unknown field: did you mean licence?"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
}

// Names that config.json has and a manifest spells otherwise lead to the field.
func TestSuggestions(t *testing.T) {
	for path, want := range map[string]string{
		"license":                            "licence",
		"model.config.rope_parameters":       "rope_scaling",
		"model.config.rope_scaling.type":     "rope_type",
		"model.config.use_sliding_window":    "sliding_window",
		"model.config.max_window_layers":     "layer_types",
		"model.config.model_type":            "architectures",
		"model.config.attentionBias":         "attention_bias",
		"inner.type":                         "",
		"model.config.rope_scaling.rope_typ": "",
	} {
		_, err := Parse(edit(t, goodYAML(), path, "1"))
		line := path + ": unknown field"
		if want != "" {
			line += ": did you mean " + want + "?"
		}
		if err == nil || !strings.Contains(err.Error(), line+" (") {
			t.Errorf("%v, want %q", err, line)
		}
	}
}

func TestParseRefusesDocuments(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":     {"", "empty"},
		"comments":  {"# nothing\n", "empty"},
		"list":      {"- 1\n", "map of fields"},
		"word":      {"shoal", "map of fields"},
		"not YAML":  {"a: [", "manifest"},
		"two":       {string(goodYAML()) + "---\na: 1\n", "more than one"},
		"too large": {strings.Repeat("#", MaxSize+1), "limit"},
		"twice":     {string(goodYAML()) + "\nname: other\n", "name: it is there twice"},
		"anchor":    {strings.Replace(string(goodYAML()), "seed: 1", "seed: &x 1", 1), "model.seed: anchors"},
		"alias":     {strings.Replace(strings.Replace(string(goodYAML()), "seed: 1", "seed: &x 1", 1), "batch: 8", "batch: *x", 1), "inner.batch: anchors"},
		"merge key": {strings.Replace(string(goodYAML()), "seed: 1", "<<: {seed: 1}", 1), "model.<<: unknown"},
		"map key":   {strings.Replace(string(goodYAML()), "  seed: 1", "  ? [a]\n  : 1", 1), "unknown field"},
		"null":      {strings.Replace(string(goodYAML()), "outer:  ", "outer: ~\nx: # ", 1), "outer: nothing is not a map"},
		"deep":      {"name: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "name: a list is not"},
	} {
		if _, err := Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error about %q", name, err, c.want)
		}
	}
}

// A warm-up that is too long is one problem, and not one of a decay that is not there.
func TestWarmupIsOneProblem(t *testing.T) {
	_, err := Parse(edit(t, goodYAML(), "inner.warmup", "601"))
	if p := (Problems)(nil); !errors.As(err, &p) || len(p) != 1 || p[0].Path != "inner.warmup" {
		t.Errorf("%v", err)
	}
}

// Relations between fields that no single field shows.
func TestCrossChecks(t *testing.T) {
	for _, c := range []struct {
		edits [][2]string
		want  string
	}{
		{[][2]string{{"model.config.hidden_size", "66"}}, "model.config.num_attention_heads: 4 heads do not divide"},
		{[][2]string{{"model.config.num_key_value_heads", "3"}}, "model.config.num_key_value_heads"},
		{[][2]string{{"inner.sequence", "128"}}, "inner.sequence: 128 is above model.config.max_position_embeddings"},
		{[][2]string{{"rewards.workers", "1"}}, "add up to 10001"},
		{[][2]string{{"rewards.trainers", "9999"}}, "add up to 9999"},
		{[][2]string{{"inner.warmup", "50"}, {"inner.steps", "49"}}, "inner.warmup: 50 is above the schedule's 49"},
		{[][2]string{{"codec.kind", "topk"}}, "codec.density: missing"},
		{[][2]string{{"admission.kind", "allow"}, {"admission.allow", "[" + someone + "]"}, {"admission.min_peers", "2"}}, "admission.min_peers: 2 is more than"},
		{[][2]string{{"rewards.budget", "5"}}, "rewards.token: missing"},
		{[][2]string{{"inner.batch", "65536"}, {"inner.sequence", "1048576"}, {"model.config.max_position_embeddings", "1048576"}}, "above the limit of 67108864 tokens"},
		{[][2]string{{"model.config.hidden_size", "131072"}, {"model.config.intermediate_size", "524288"}, {"model.config.num_hidden_layers", "1024"}, {"model.config.num_attention_heads", "1024"}}, "model.config.hidden_size: model has"},
	} {
		y := goodYAML()
		for _, e := range c.edits {
			y = edit(t, y, e[0], e[1])
		}
		if _, err := Parse(y); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want an error with %q", c.edits, err, c.want)
		}
	}
	y := edit(t, edit(t, goodYAML(), "inner.schedule", "wsd"), "inner.decay_steps", "120")
	y = edit(t, edit(t, y, "codec.kind", "topk"), "codec.density", "156")
	y = edit(t, edit(t, y, "admission.kind", "stake"), "admission.min_stake", "1000000000000000000")
	m, err := Parse(y)
	if err != nil {
		t.Fatal(err)
	}
	if m.ScheduleSteps() != 600 || m.WindowsPerRound() != 160 {
		t.Errorf("%d steps, %d windows a round", m.ScheduleSteps(), m.WindowsPerRound())
	}
}
