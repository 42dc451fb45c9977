package hf

import (
	"fmt"
	"strings"
	"testing"
)

// Which of three layers see how many tokens, as transformers 4.57 and 5 have it.
func TestWindows(t *testing.T) {
	qwen := func(s string) string {
		return `{"model_type":"qwen3","hidden_size":64,"intermediate_size":172,"num_hidden_layers":3,"num_attention_heads":8,"vocab_size":512` + s + `}`
	}
	for _, x := range []struct{ s, want string }{
		{``, "[0 0 0]"},
		{`,"sliding_window":16,"max_window_layers":0`, "[0 0 0]"},
		{`,"use_sliding_window":false,"sliding_window":16,"max_window_layers":0`, "[0 0 0]"},
		{`,"use_sliding_window":true,"sliding_window":16`, "[0 0 0]"}, // from layer 28 on
		{`,"use_sliding_window":true,"sliding_window":16,"max_window_layers":0`, "[16 16 16]"},
		{`,"use_sliding_window":true,"sliding_window":16,"max_window_layers":2`, "[0 0 16]"},
		{`,"use_sliding_window":true,"max_window_layers":2`, "[0 0 4096]"},
		{`,"use_sliding_window":true,"sliding_window":null,"max_window_layers":0`, "[0 0 0]"},
		{`,"use_sliding_window":true,"sliding_window":16,"max_window_layers":0,"layer_types":["full_attention","sliding_attention","full_attention"]`, "[0 16 0]"},
		{`,"use_sliding_window":true,"sliding_window":16,"max_window_layers":0,"layer_types":["full_attention","full_attention","full_attention"]`, "[0 0 0]"},
		{`,"use_sliding_window":true,"sliding_window":16,"max_window_layers":0,"layer_types":null`, "[16 16 16]"},
	} {
		c, err := ParseConfig([]byte(qwen(x.s)))
		if err != nil {
			t.Errorf("%s: %v", x.s, err)
			continue
		}
		if got := fmt.Sprint([]int{c.Window(0), c.Window(1), c.Window(2)}); got != x.want {
			t.Errorf("%s: windows %s, want %s", x.s, got, x.want)
		}
	}
	for s, want := range map[string]string{
		`,"layer_types":["full_attention","sliding_attention","full_attention"]`:            "layer_types: sliding_attention without",
		`,"use_sliding_window":true,"sliding_window":8,"layer_types":["sliding_attention"]`: "layer_types: 1 for 3",
		`,"layer_types":[]`: "layer_types: 0 for 3",
		`,"layer_types":["full_attention","chunked_attention","full_attention"]`: "layer_types: \"chunked_attention\"",
		`,"use_sliding_window":true,"sliding_window":0`:                          "sliding_window: 0",
		`,"use_sliding_window":true,"sliding_window":-4`:                         "sliding_window: -4",
		`,"use_sliding_window":true,"sliding_window":1.5`:                        "sliding_window",
		`,"use_sliding_window":true,"sliding_window":99999999999`:                "sliding_window: 99999999999",
		`,"use_sliding_window":1`:                                                "use_sliding_window",
	} {
		if _, err := ParseConfig([]byte(qwen(s))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error about %q", s, err, want)
		}
	}
	for want, c := range map[string]Config{
		"full attention only":   windowed("", 4, func(int) bool { return true }),
		"no layer has it":       windowed(Qwen2, 4, func(int) bool { return false }),
		"want a sliding_window": windowed(Qwen2, 0, func(int) bool { return true }),
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error about %q", err, want)
		}
	}
}
