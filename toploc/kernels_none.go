//go:build !amd64 || purego

package toploc

func gather(a []uint16, floor uint16, at uint32, bits []uint16, pos []uint32) (read, wrote int) {
	return gatherGeneric(a, floor, at, bits, pos)
}

func count(a []uint16, floor uint16) int { return countGeneric(a, floor) }

func compact(bits []uint16, pos []uint32, n int, floor uint16) int {
	return compactGeneric(bits, pos, n, floor)
}

func interpolate(c []uint16, x, y []uint32) { newton(c, x, y) }

func evaluate(out []uint32, c []uint16, at []uint32) { evaluateGeneric(out, c, at) }

func project(lanes *[projLanes]int32, row []uint16, gain []float32) {
	projectGeneric(lanes, row, gain)
}
