package cpu

import (
	"math"

	"github.com/shoalnet/shoal/gpu"
)

// chunk is how many rows a task of a row-wise kernel takes at most, and how many rows
// are summed into one partial gradient.
const chunk = 64

type rowsOp int

const (
	opCopy rowsOp = iota
	opEmbed
	opNorm
	opNormBack
	opRoPE
	opSwiGLU
	opSwiGLUBack
	opCrossEntropy
)

// rowsJob is a kernel that treats rows one by one.
type rowsJob struct {
	op       rowsOp
	out, x   gpu.Matrix
	y, z     gpu.Matrix
	v, u     []float32
	ids      []int32
	s        float32
	r        gpu.Rotation
	partials []float32
	each     int // rows of a task
}

// each runs d.rows on n rows of about cost vector operations.
func (d *Device) each(n, cost int) {
	j := &d.rows
	if j.each = chunk; j.op != opNormBack { // whose partial gradients are of chunks
		j.each = max(1, min(chunk, n/(2*len(d.workers))))
	}
	d.pool.run(j, (n+j.each-1)/j.each, n*cost)
}

func (j *rowsJob) run(w *worker, task int) {
	from := task * j.each
	to := min(from+j.each, j.out.Rows)
	switch j.op {
	case opCopy:
		for t := from; t < to; t++ {
			copy(row(&j.out, t), row(&j.x, t))
		}
	case opEmbed:
		for t := from; t < to; t++ {
			copy(row(&j.out, t), row(&j.x, int(j.ids[t])))
		}
	case opNorm:
		for t := from; t < to; t++ {
			x := row(&j.x, t)
			a := float32(1 / math.Sqrt(float64(w.k.dot(x, x))/float64(len(x))+float64(j.s)))
			j.u[t] = a
			w.k.normalize(row(&j.out, t), x, j.v, a)
		}
	case opNormBack:
		part := j.partials[task*j.x.Cols : (task+1)*j.x.Cols]
		clear(part)
		for t := from; t < to; t++ {
			x, dy, a := row(&j.x, t), row(&j.y, t), j.u[t]
			b := float32(float32(a*a)*a) * (w.k.dot3(x, dy, j.v) / float32(len(x)))
			w.k.normBack(row(&j.out, t), part, dy, x, j.v, a, b)
		}
	case opRoPE:
		j.rope(w.k, from, to)
	case opSwiGLU:
		f := j.out.Cols
		for t := from; t < to; t++ {
			x := row(&j.x, t)
			w.k.swiglu(row(&j.out, t), x[:f], x[f:])
		}
	case opSwiGLUBack:
		f := j.y.Cols
		for t := from; t < to; t++ {
			d, x := row(&j.out, t), row(&j.x, t)
			w.k.swigluBack(d[:f], d[f:], row(&j.y, t), x[:f], x[f:])
		}
	case opCrossEntropy:
		for t := from; t < to; t++ {
			j.crossEntropy(w.k, t)
		}
	}
}

func (j *rowsJob) rope(k *kernels, from, to int) {
	sign := float32(1)
	if j.r.Inverse {
		sign = -1
	}
	for t := from; t < to; t++ {
		p := j.r.Start + (j.r.Row+t)%j.r.Period
		k.rope(row(&j.out, t)[:j.r.Heads*j.r.HeadDim], row(&j.y, p), row(&j.z, p), j.r.Heads, sign)
	}
}

func (j *rowsJob) crossEntropy(k *kernels, t int) {
	z, target := row(&j.out, t), j.ids[t]
	if target < 0 {
		clear(z)
		j.u[t] = 0
		return
	}
	at := z[target]
	m, sum := k.softmax(z, 1, j.s)
	j.u[t] = float32(log(float64(sum)) + float64(m) - float64(at))
	z[target] -= j.s
}

// Copy implements gpu.Device.
func (d *Device) Copy(dst, src gpu.Matrix) {
	gpu.CheckMatrix("copy", src)
	gpu.CheckShape("copy", dst, src.Rows, src.Cols)
	d.rows = rowsJob{op: opCopy, out: dst, x: src}
	d.each(dst.Rows, dst.Cols/16+1)
}

// Embed implements gpu.Device.
func (d *Device) Embed(out, table gpu.Matrix, ids []int32) {
	gpu.CheckMatrix("embed", table)
	gpu.CheckShape("embed", out, len(ids), table.Cols)
	gpu.CheckIDs("embed", ids, table.Rows, false)
	d.rows = rowsJob{op: opEmbed, out: out, x: table, ids: ids}
	d.each(out.Rows, out.Cols/16+1)
}

// RMSNorm implements gpu.Device.
func (d *Device) RMSNorm(out gpu.Matrix, inv gpu.Buffer, x gpu.Matrix, gain gpu.Buffer, eps float32) {
	gpu.CheckRMSNorm("rmsnorm", out, x, gain, inv)
	d.rows = rowsJob{op: opNorm, out: out, x: x, v: gain.Host, u: inv.Host, s: eps}
	d.each(x.Rows, x.Cols/8+8)
}

// RMSNormBackward implements gpu.Device.
func (d *Device) RMSNormBackward(dx gpu.Matrix, dgain gpu.Buffer, dout, x gpu.Matrix, gain, inv gpu.Buffer) {
	gpu.CheckRMSNorm("rmsnorm backward", dout, x, gain, inv)
	gpu.CheckShape("rmsnorm backward", dx, x.Rows, x.Cols)
	gpu.CheckLen("rmsnorm backward", dgain, x.Cols)
	chunks := (x.Rows + chunk - 1) / chunk
	part := grow(&d.gains, chunks*x.Cols)
	d.rows = rowsJob{op: opNormBack, out: dx, x: x, y: dout, v: gain.Host, u: inv.Host, partials: part}
	d.each(x.Rows, x.Cols/4+8)
	for i := range chunks {
		d.k.add(dgain.Host, part[i*x.Cols:(i+1)*x.Cols])
	}
}

// RoPE implements gpu.Device.
func (d *Device) RoPE(x, cos, sin gpu.Matrix, r gpu.Rotation) {
	gpu.CheckRoPE(x, cos, sin, r)
	d.rows = rowsJob{op: opRoPE, out: x, y: cos, z: sin, r: r}
	d.each(x.Rows, r.Heads*(r.HeadDim/8+2))
}

// SwiGLU implements gpu.Device.
func (d *Device) SwiGLU(out, gateUp gpu.Matrix) {
	gpu.CheckSwiGLU("swiglu", out, gateUp)
	d.rows = rowsJob{op: opSwiGLU, out: out, x: gateUp}
	d.each(out.Rows, out.Cols+1)
}

// SwiGLUBackward implements gpu.Device.
func (d *Device) SwiGLUBackward(dgateUp, dout, gateUp gpu.Matrix) {
	gpu.CheckSwiGLU("swiglu backward", dout, gateUp)
	gpu.CheckShape("swiglu backward", dgateUp, gateUp.Rows, gateUp.Cols)
	d.rows = rowsJob{op: opSwiGLUBack, out: dgateUp, x: gateUp, y: dout}
	d.each(dout.Rows, 2*dout.Cols+1)
}

// CrossEntropy implements gpu.Device.
func (d *Device) CrossEntropy(loss gpu.Buffer, logits gpu.Matrix, targets []int32, scale float32) {
	gpu.CheckCrossEntropy(loss, logits, targets)
	d.rows = rowsJob{op: opCrossEntropy, out: logits, ids: targets, u: loss.Host, s: scale}
	d.each(logits.Rows, 2*logits.Cols+16)
}

// embedBackwardJob adds gradients to the table, each task to columns of its
// own.
type embedBackwardJob struct {
	table, dout gpu.Matrix
	ids         []int32
}

const embedCols = 64

// EmbedBackward implements gpu.Device.
func (d *Device) EmbedBackward(dtable, dout gpu.Matrix, ids []int32) {
	gpu.CheckMatrix("embed backward", dtable)
	gpu.CheckShape("embed backward", dout, len(ids), dtable.Cols)
	gpu.CheckIDs("embed backward", ids, dtable.Rows, false)
	d.scatter = embedBackwardJob{dtable, dout, ids}
	d.pool.run(&d.scatter, (dtable.Cols+embedCols-1)/embedCols, len(ids)*(dtable.Cols/8+4))
}

func (j *embedBackwardJob) run(w *worker, task int) {
	from := task * embedCols
	to := min(from+embedCols, j.table.Cols)
	for t, id := range j.ids {
		w.k.add(row(&j.table, int(id))[from:to], row(&j.dout, t)[from:to])
	}
}
