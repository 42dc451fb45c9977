package hf

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// The kinds of layers that layer_types names.
const (
	FullAttention    = "full_attention"
	SlidingAttention = "sliding_attention"
)

// Window is how many tokens one of layer n sees, itself included; 0 is all that
// precede it.
func (c Config) Window(n int) int {
	if n < len(c.Sliding) && c.Sliding[n] {
		return c.SlidingWindow
	}
	return 0
}

func (c *Config) validateWindow() error {
	switch {
	case c.SlidingWindow == 0 && c.Sliding == nil:
		return nil
	case c.SlidingWindow == 0:
		return errors.New("layer_types: they want a sliding_window, and none is set")
	case c.Family == "":
		return errors.New("sliding_window: a llama has full attention only")
	case c.SlidingWindow < 1 || c.SlidingWindow > MaxPositions:
		return fmt.Errorf("sliding_window: %d is not in 1..%d", c.SlidingWindow, MaxPositions)
	case len(c.Sliding) != c.NumHiddenLayers:
		return fmt.Errorf("layer_types: %d for %d layers", len(c.Sliding), c.NumHiddenLayers)
	case !slices.Contains(c.Sliding, true):
		return fmt.Errorf("sliding_window: %d, but no layer has it", c.SlidingWindow)
	}
	return nil
}

// windows reads the window, and the layers that have it: those of layer_types, or
// without it, as in transformers before 4.53, those from max_window_layers on.
func (j *configJSON) windows(c Config) (size int, sliding []bool, err error) {
	if c.Family == "" {
		return 0, nil, nil
	}
	if j.UseSlidingWindow {
		window := json.RawMessage("4096") // transformers' default; null is none
		if len(j.SlidingWindow) > 0 {
			window = j.SlidingWindow
		}
		var n *int
		if err := Unmarshal(window, &n); err != nil {
			return 0, nil, fmt.Errorf("sliding_window: %w", err)
		}
		if n != nil && (*n < 1 || *n > MaxPositions) {
			return 0, nil, fmt.Errorf("sliding_window: %d is not in 1..%d", *n, MaxPositions)
		}
		size = or(n, 0)
	}
	if j.LayerTypes != nil && len(j.LayerTypes) != c.NumHiddenLayers {
		return 0, nil, fmt.Errorf("layer_types: %d for %d layers", len(j.LayerTypes), c.NumHiddenLayers)
	}
	first := or(j.MaxWindowLayers, 28)
	sliding = make([]bool, c.NumHiddenLayers)
	for i := range sliding {
		switch {
		case j.LayerTypes == nil:
			sliding[i] = size > 0 && i >= first
		case j.LayerTypes[i] == SlidingAttention && size == 0:
			return 0, nil, errors.New("layer_types: sliding_attention without use_sliding_window and sliding_window")
		case j.LayerTypes[i] == SlidingAttention:
			sliding[i] = true
		case j.LayerTypes[i] != FullAttention:
			return 0, nil, fmt.Errorf("layer_types: %.40q, want full_attention or sliding_attention", j.LayerTypes[i])
		}
	}
	if !slices.Contains(sliding, true) {
		return 0, nil, nil
	}
	return size, sliding, nil
}

// A windowJSON is what config.json says of the window, by layer and, where
// sliding layers are the last, for transformers before 4.53 too.
type windowJSON struct {
	size   json.RawMessage
	from   *int
	layers []string
}

func (c *Config) window() (w windowJSON) {
	if c.SlidingWindow == 0 {
		return w
	}
	w.size = strconv.AppendInt(nil, int64(c.SlidingWindow), 10)
	for _, s := range c.Sliding {
		w.layers = append(w.layers, map[bool]string{false: FullAttention, true: SlidingAttention}[s])
	}
	if first := slices.Index(c.Sliding, true); !slices.Contains(c.Sliding[first:], false) {
		w.from = &first
	}
	return w
}
