package cpu

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// greatestJob finds the greatest value of each row. A task is a stretch of columns, as those of the
// product are that wrote them: they lie in the cache of who did.
type greatestJob struct {
	z     gpu.Matrix
	parts []peak // of each stretch those of all rows
}

// A peak is the greatest value of a stretch and its column, -1 where one is not finite.
type peak struct {
	value float32
	col   int32
}

const (
	greatestCols  = 4096
	greatestBlock = 512 // of which only one is looked through for the value
)

// Greatest implements gpu.Decoder.
func (d *Device) Greatest(best []int32, z gpu.Matrix) {
	gpu.CheckGreatest(best, z)
	j := &d.decode.most
	stretches := (z.Cols + greatestCols - 1) / greatestCols
	if n := stretches * z.Rows; len(j.parts) < n {
		j.parts = make([]peak, n)
	}
	j.z = z
	d.pool.run(j, stretches, z.Rows*z.Cols/16)
	j.z = gpu.Matrix{}
	for t := range best {
		first := j.parts[t]
		for s := 1; s < stretches && first.col >= 0; s++ {
			if x := j.parts[s*z.Rows+t]; x.col < 0 || x.value > first.value {
				first = x
			}
		}
		best[t] = first.col
	}
}

func (j *greatestJob) run(w *worker, task int) {
	from := task * greatestCols
	to := min(from+greatestCols, j.z.Cols)
	for t := range j.z.Rows {
		j.parts[task*j.z.Rows+t] = w.k.first(row(&j.z, t), from, to)
	}
}

// first is the first greatest of x[from:to].
func (k *kernels) first(x []float32, from, to int) peak {
	at, most := from, float32(math.Inf(-1))
	for i := from; i < to; i += greatestBlock {
		m := k.greatest(x[i:min(i+greatestBlock, to)])
		if m != m {
			return peak{m, -1}
		}
		if m > most {
			at, most = i, m
		}
	}
	for x[at] != most {
		at++
	}
	return peak{most, int32(at)}
}

// greatestGo is kernels.greatest.
func greatestGo(x []float32) float32 {
	most := float32(math.Inf(-1))
	for len(x) > 0 {
		// Nearly all are finite and less. The sum is not finite where one is not.
		if len(x) >= 8 {
			z := (*[8]float32)(x)
			sum := (z[0] + z[1]) + (z[2] + z[3]) + ((z[4] + z[5]) + (z[6] + z[7]))
			if sum-sum == 0 && z[0] <= most && z[1] <= most && z[2] <= most && z[3] <= most &&
				z[4] <= most && z[5] <= most && z[6] <= most && z[7] <= most {
				x = x[8:]
				continue
			}
		}
		n := min(8, len(x))
		for _, v := range x[:n] {
			if v-v != 0 {
				return float32(math.NaN())
			}
			most = max(most, v)
		}
		x = x[n:]
	}
	return most
}
