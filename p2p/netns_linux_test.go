package p2p

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"golang.org/x/sys/unix"
)

// AutoNAT believes only addresses that look public, so its test runs in a
// network namespace of its own, whose loopback device has some.
const (
	netnsEnv  = "SHOAL_TEST_NETNS"
	netnsHost = "1.2.3.%d"
	netnsSize = 6
)

// Hosts that are told nothing find out by AutoNAT that they can be reached,
// which shows that its dial-backs, under foreign keys, get past the gater; one
// that announces an address where nobody answers does not, and takes a relay.
func TestAutoNAT(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: AutoNAT takes 20 s to make up its mind")
	}
	if os.Getenv(netnsEnv) == "" {
		t.Parallel() // it mostly waits
		inNamespace(t)
		return
	}
	var hosts []*Host
	add := func(i int, edit func(*Config)) *Host {
		c := local(t, byte(i))
		ip := fmt.Sprintf(netnsHost, i)
		c.Listen = []string{"/ip4/" + ip + "/udp/4747/quic-v1", "/ip4/" + ip + "/tcp/4747"}
		c.NoAutoNAT = false
		if len(hosts) > 0 {
			c.Bootstrap = []string{hosts[0].Addrs()[0]}
		}
		edit(&c)
		h := start(t, c)
		h.Rendezvous("test")
		hosts = append(hosts, h)
		return h
	}
	for i := 1; i < netnsSize; i++ {
		add(i, func(*Config) {})
	}
	var confirmed atomic.Int32 // by AutoNAT v2, whose dial-backs must say something
	for _, h := range hosts {
		sub, err := h.host.EventBus().Subscribe(new(event.EvtHostReachableAddrsChanged))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sub.Close() })
		go func() {
			for e := range sub.Out() {
				if len(e.(event.EvtHostReachableAddrsChanged).Reachable) > 0 {
					confirmed.Add(1)
					return
				}
			}
		}()
	}
	begin := time.Now()
	patiently(t, "all have a confirmed address", func() bool { return int(confirmed.Load()) == len(hosts) })
	patiently(t, "the open ones know that they are public", func() bool {
		return !slices.ContainsFunc(hosts, func(h *Host) bool { return !h.Public() })
	})
	t.Logf("%d hosts know that they are public after %v", len(hosts), time.Since(begin).Round(time.Second))
	hidden := add(netnsSize, func(c *Config) {
		c.Listen = []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}
		c.Announce = []string{fmt.Sprintf("/ip4/"+netnsHost+"/tcp/4747", netnsSize)}
	})
	begin = time.Now()
	patiently(t, "the hidden one has a relay", func() bool { return relayed(hidden) != "" })
	if hidden.Public() {
		t.Error("the hidden host thinks that it is public")
	}
	t.Logf("the hidden one has a relay after %v", time.Since(begin).Round(time.Second))
}

func patiently(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(90 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within 90 s: %s", what)
		}
	}
}

// inNamespace runs the calling test again in a fresh network namespace.
func inNamespace(t *testing.T) {
	t.Helper()
	var ips []string
	for i := range netnsSize {
		ips = append(ips, fmt.Sprintf(netnsHost, i+1))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=4m")
	cmd.Env = append(os.Environ(), netnsEnv+"="+strings.Join(ips, ","))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Skipf("SKIPPED: no network namespaces here (%v), so AutoNAT is not tested", err)
	}
	t.Logf("in the namespace:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// TestMain prepares the namespace, if this process is in one of its own.
func TestMain(m *testing.M) {
	if ips := os.Getenv(netnsEnv); ips != "" {
		if err := raiseLoopback(strings.Split(ips, ",")); err != nil {
			fmt.Fprintln(os.Stderr, "prepare the network namespace:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// raiseLoopback gives the loopback device the IPv4 addresses and switches it on.
func raiseLoopback(ips []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	up := func(name string) error {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
	}
	if err := up("lo"); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	for i, ip := range ips {
		var b [4]byte
		if _, err := fmt.Sscanf(ip, "%d.%d.%d.%d", &b[0], &b[1], &b[2], &b[3]); err != nil {
			return fmt.Errorf("%q: %w", ip, err)
		}
		name := fmt.Sprintf("lo:%d", i+1)
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := r.SetInet4Addr(b[:]); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r); err != nil {
			return fmt.Errorf("%s %s: %w", name, ip, err)
		}
		if err := up(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
