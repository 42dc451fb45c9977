package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

func TestOne(t *testing.T) {
	seed, err := strconv.Atoi(os.Getenv("SIM_ONE"))
	if err != nil {
		t.Skip()
	}
	c := Random(uint64(seed))
	if os.Getenv("SIM_SHRINK") != "" {
		c, _ = Shrink(c)
	}
	fmt.Println(c)
	w := newWorld(c.withDefaults())
	w.debug = os.Getenv("SIM_DEBUG") != ""
	w.loop()
	for _, p := range w.peers {
		if p != nil && p.up() {
			fmt.Printf("%d %+v\n%s\n", p.n, p.m.Status(), p.m.Debug())
		}
	}
	fmt.Println(w.failed)
}
