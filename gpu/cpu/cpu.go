// Package cpu is the tuned gpu.Device for the host's processor: blocked matrix
// products and vector kernels in assembly (AVX-512 or AVX2 with FMA, generated and
// chosen at run time; NEON on arm64), each with a twin in portable Go, spread over a
// pool of workers.
//
// # Determinism
//
// Results are equal bit for bit for any number of threads: each value is
// written by one task, sums over tokens or parameters run over chunks whose
// size does not depend on the threads and are added in the chunks' order, and
// each element of a matrix product is one chain of fused multiply-adds over k,
// however it is tiled. Reductions inside a row run in sixteen lanes that are
// added as a fixed tree, so that AVX2, AVX-512 and NEON give equal bits too. The
// portable kernels, on every architecture, differ in the matrix product alone,
// where they round each product before they add it; with Options.Reproducible they
// round as the assembly does and give its bits.
//
// # Memory
//
// Scratch grows with the shapes seen, for all threads at once, and is kept, so
// that a training step that repeats its shapes allocates nothing.
package cpu

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/shoalnet/shoal/gpu"
)

// Options choose how a Device computes. The zero value is right for a process
// that has the machine for itself.
type Options struct {
	// Threads is the number of goroutines that compute, the caller's among
	// them. 0 means GOMAXPROCS. Where several processes share the cores, fewer
	// waste less.
	Threads int
	// ISA is "avx512", "avx512bf16", "avx2", "neon" or "portable"; empty means the best there is.
	ISA string
	// Reproducible asks for results that are equal, bit for bit, on every
	// machine. AVX2, AVX-512 and NEON give them always, at no cost; the portable matrix
	// product is about five times as slow with them.
	Reproducible bool
	// BF16 rounds the operands of MatMul to bfloat16, ties to even, and adds in
	// float32: mixed precision with float32 master weights. Attention, norms and the
	// optimizer stay float32. Bits are equal where float32's are, but for the
	// processors whose VDPBF16PS is faster (found by measuring; ISA "avx512bf16" asks
	// for it): it multiplies in pairs, with bits of its own, unless Reproducible.
	BF16 bool
}

// A Device computes on the host. It is for one goroutine.
type Device struct {
	k       *kernels
	half    bool // MatMul in bfloat16
	pool    *pool
	workers []*worker
	part    []float64 // partial sums, one a chunk
	gains   []float32 // partial gradients of a norm's gain, one row a chunk

	matmul  matmulJob
	rows    rowsJob
	attn    attentionJob
	reduce  reduceJob
	adam    adamJob
	scatter embedBackwardJob
	decode  decoding
	rowwise eachJob
	packs   *packs // of a thread in EachRow
}

var _ gpu.Device = (*Device)(nil)

// A worker is what one thread needs for itself.
type worker struct {
	id     int
	k      *kernels
	pack   []float32              // panels of B, kernels.pack values
	strips []float32              // of A, kernels.strips values
	kept   bool                   // pack holds all of B that the last product had
	packed bool                   // and the next has the same
	of     uint64                 // the MatMul whose product was the last
	col    int                    // and where B began in it
	edge   [8 * panelCols]float32 // of C where a kernel's does not fit
	score  []float32              // attention: scores of a block of queries
	dp     []float32              // attention: their gradients
}

// New makes a device. It fails where the processor lacks the ISA asked for.
func New(o Options) (*Device, error) {
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	if o.Threads < 1 || o.Threads > 1024 {
		return nil, fmt.Errorf("cpu: %d threads, want 1 to 1024", o.Threads)
	}
	k, err := choose(o.ISA)
	if err != nil {
		return nil, err
	}
	if o.BF16 && o.ISA == "" {
		k = withHalf(k)
	}
	if o.Reproducible && k.exact != nil {
		k = k.exact
	}
	d := &Device{k: k, half: o.BF16, workers: make([]*worker, o.Threads)}
	for i := range d.workers {
		d.workers[i] = &worker{id: i, k: k, pack: aligned(k.pack), strips: aligned(k.strips)}
	}
	d.pool = newPool(d.workers)
	return d, nil
}

// choose finds the kernels by name.
func choose(name string) (*kernels, error) {
	all := append(native(), &portable)
	if name == "" {
		return all[0], nil
	}
	have := ""
	for _, k := range all {
		if k.name == name {
			return k, nil
		}
		have += " " + k.name
	}
	return nil, fmt.Errorf("cpu: no %s kernels here; there are:%s", name, have)
}

// ISAs lists the kernels for float32 that this machine and build can use, the best first.
func ISAs() []string {
	var names []string
	for _, k := range append(native(), &portable) {
		if !k.paired {
			names = append(names, k.name)
		}
	}
	return names
}

// Close ends the workers and waits for them. The device must not be used
// afterwards.
func (d *Device) Close() error {
	d.pool.close()
	return nil
}

// Threads is the number of goroutines that compute.
func (d *Device) Threads() int { return len(d.workers) }

// Name implements gpu.Device.
func (d *Device) Name() string {
	kind := ""
	if d.half {
		kind = " bf16"
	}
	return fmt.Sprintf("cpu %s%s, %d threads", d.k.name, kind, len(d.workers))
}

// Version rises with each change that alters the bits of any result.
//
//	1  first
//	2  AdamW has no subnormal moments
const Version = 2

// Class names what the results depend on: devices of one Class give equal bits,
// whatever their threads. The architecture is part of it, for caution.
func (d *Device) Class() string {
	class := d.k.class
	if d.half {
		class += " bf16"
		if d.k.paired {
			class += " pairs"
		}
	}
	return fmt.Sprintf("cpu/%d %s %s", Version, class, runtime.GOARCH)
}

// Alloc implements gpu.Device. Memory starts on a cache line.
func (d *Device) Alloc(n int) gpu.Buffer { return gpu.Buffer{Host: aligned(n), N: n} }

func aligned(n int) []float32 {
	const line = 64
	s := make([]float32, n+line/4)
	huge(unsafe.Pointer(unsafe.SliceData(s)), 4*len(s))
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(s))) % line / 4)
	return s[off : off+n : off+n]
}

// grow makes *s at least n long. Old contents are lost.
func grow(s *[]float32, n int) []float32 {
	if len(*s) < n {
		*s = aligned(n)
	}
	return (*s)[:n]
}

// Import implements gpu.Device.
func (d *Device) Import(host []float32) gpu.Buffer { return gpu.Buffer{Host: host, N: len(host)} }

// Upload implements gpu.Device.
func (d *Device) Upload(dst gpu.Buffer, src []float32) {
	gpu.CheckLen("upload", dst, len(src))
	copy(dst.Host, src)
}

// Download implements gpu.Device.
func (d *Device) Download(dst []float32, src gpu.Buffer) {
	gpu.CheckLen("download", src, len(dst))
	copy(dst, src.Host)
}

// Sync implements gpu.Device.
func (d *Device) Sync() error { return nil }

// Zero implements gpu.Device.
func (d *Device) Zero(dst gpu.Buffer) { clear(dst.Host) }

// row is row i of m.
func row(m *gpu.Matrix, i int) []float32 {
	o := i * m.Stride
	return m.Host[o : o+m.Cols : o+m.Cols]
}
