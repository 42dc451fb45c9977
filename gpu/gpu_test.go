package gpu

import "testing"

// matrices gives one matrix in the host's memory and one elsewhere, 4 by 3
// with rows 5 apart, holding their own offsets.
func matrices() (host, far Matrix) {
	v := make([]float32, 20)
	for i := range v {
		v[i] = float32(i)
	}
	host = Matrix{Buffer: Buffer{Host: v, N: 20}, Rows: 4, Cols: 3, Stride: 5}
	far = Matrix{Buffer: Buffer{Addr: 0x1000, N: 20}, Rows: 4, Cols: 3, Stride: 5}
	return host, far
}

func TestViews(t *testing.T) {
	host, far := matrices()
	for _, c := range []struct {
		name       string
		view       func(Matrix) Matrix
		rows, cols int
		first, n   int // of the memory
	}{
		{"columns", func(m Matrix) Matrix { return m.Columns(1, 2) }, 4, 2, 1, 17},
		{"rows", func(m Matrix) Matrix { return m.Row(2, 2) }, 2, 3, 10, 8},
		{"rows of columns", func(m Matrix) Matrix { return m.Columns(2, 1).Row(1, 3) }, 3, 1, 7, 11},
		{"no rows", func(m Matrix) Matrix { return m.Row(4, 0) }, 0, 3, 0, 0},
		{"columns of no rows", func(m Matrix) Matrix { return m.Row(1, 0).Columns(1, 1) }, 0, 1, 0, 0},
		{"dense", func(m Matrix) Matrix { return m.Slice(4, 20).Matrix(2, 8) }, 2, 8, 4, 16},
	} {
		for _, m := range []Matrix{host, far} {
			v := c.view(m)
			if v.Rows != c.rows || v.Cols != c.cols || v.N != c.n {
				t.Errorf("%s: %dx%d in %d values, want %dx%d in %d", c.name, v.Rows, v.Cols, v.N, c.rows, c.cols, c.n)
			}
			if m.Host != nil && c.n > 0 && v.Host[0] != float32(c.first) {
				t.Errorf("%s: begins at %g, want %d", c.name, v.Host[0], c.first)
			}
			if m.Host == nil && c.n > 0 && v.Addr != 0x1000+4*uintptr(c.first) {
				t.Errorf("%s: begins at %#x", c.name, v.Addr)
			}
			CheckMatrix("test", v)
		}
	}
}

func TestViewsPanic(t *testing.T) {
	host, _ := matrices()
	for name, f := range map[string]func(){
		"slice past the end":    func() { host.Slice(3, 21) },
		"slice backwards":       func() { host.Slice(3, 2) },
		"slice before":          func() { host.Slice(-1, 2) },
		"columns past the end":  func() { host.Columns(2, 2) },
		"rows past the end":     func() { host.Row(3, 2) },
		"matrix past the end":   func() { host.Matrix(7, 3) },
		"stride below columns":  func() { CheckMatrix("test", Matrix{Buffer: host.Buffer, Rows: 2, Cols: 3, Stride: 2}) },
		"memory below the rows": func() { CheckMatrix("test", Matrix{Buffer: host.Buffer, Rows: 5, Cols: 3, Stride: 5}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}
