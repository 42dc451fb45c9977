package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

func TestCalm(t *testing.T) {
	r, err := Run(Config{Seed: 1, Peers: 5, Stop: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)

}

func TestSeeds(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("SIM_SEEDS"))
	n = max(n, 20)
	from, _ := strconv.Atoi(os.Getenv("SIM_FROM"))
	bad := 0
	var ev int
	for i := from; i < from+n; i++ {
		r, err := Run(Random(uint64(i)))
		ev += r.Events
		if err != nil {
			bad++
			if bad < 12 {
				fmt.Println(err)
			}
		}
	}
	t.Logf("%d bad of %d, %d events", bad, n, ev)
	if bad > 0 {
		t.Fail()
	}
}
