package main

import (
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/chain"
	"github.com/shoalnet/shoal/node/manifest"
)

// By default no conviction takes as long as unbonding does; where it may, that is said.
func TestUnbondingOutlastsConvictions(t *testing.T) {
	public := &deployment{Config: chain.DefaultConfig(chain.Address{1})}
	m := &manifest.Manifest{}
	m.Verification.AuditRate, m.Verification.Window, m.Round.Deadline = 1000, 8, 10*time.Minute
	if why := public.outrun(m); why != "" {
		t.Errorf("the defaults: %s", why)
	}
	for name, change := range map[string]func(d *deployment, m *manifest.Manifest){
		"rounds of a day":           func(_ *deployment, m *manifest.Manifest) { m.Round.Deadline = 24 * time.Hour },
		"a window of 64, long ones": func(_ *deployment, m *manifest.Manifest) { m.Verification.Window, m.Round.Deadline = 64, 2*time.Hour },
		"a dev chain":               func(d *deployment, _ *manifest.Manifest) { d.Config = chain.DevConfig(chain.Address{1}) },
	} {
		d, n := *public, *m
		change(&d, &n)
		for _, want := range []string{"verification.window", "round.deadline", "unbonded"} {
			if why := d.outrun(&n); !strings.Contains(why, want) {
				t.Errorf("%s: %q does not name %s", name, why, want)
			}
		}
		n.Verification.AuditRate = 0
		if why := d.outrun(&n); why != "" {
			t.Errorf("%s, without audits: %s", name, why)
		}
	}
}
