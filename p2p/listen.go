package p2p

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/libp2p/go-libp2p/core/host"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// ErrPortInUse is wrapped by the error of New when another process holds one
// of the ports.
var ErrPortInUse = errors.New("port in use")

// probePorts opens and closes each fixed port. libp2p's TCP transport shares
// ports between processes of one user (SO_REUSEPORT), so two peers on one port
// would both start and each get half of the connections; a plain bind tells.
func probePorts(listen []ma.Multiaddr) error {
	for _, a := range listen {
		network, addr, err := dialArgs(a)
		if err != nil || strings.HasSuffix(addr, ":0") {
			continue // not ours to judge: libp2p says what it cannot listen on
		}
		var c io.Closer
		if strings.HasPrefix(network, "udp") {
			c, err = net.ListenPacket(network, addr)
		} else {
			c, err = net.Listen(network, addr)
		}
		switch {
		case err == nil:
			if err := c.Close(); err != nil {
				return fmt.Errorf("probe %s: %w", a, err)
			}
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("listen on %s: %w: %s %s is taken, perhaps by another node; stop it or listen on another port (0 takes any free one)", a, ErrPortInUse, network, addr)
		case errors.Is(err, syscall.EACCES):
			return fmt.Errorf("listen on %s: %w: ports below 1024 need privileges; listen on another port", a, err)
		}
	}
	return nil
}

// dialArgs returns ("udp4", "0.0.0.0:4747") and the like for the IP part of a.
func dialArgs(a ma.Multiaddr) (network, addr string, err error) {
	thin, _ := ma.SplitFunc(a, func(c ma.Component) bool {
		switch c.Protocol().Code {
		case ma.P_IP4, ma.P_IP6, ma.P_UDP, ma.P_TCP:
			return false
		}
		return true
	})
	return manet.DialArgs(thin)
}

// checkListening makes sure that libp2p listens wherever it was told to; it is
// content with one success out of many. Unless strict, only that one is asked.
func checkListening(h host.Host, want []ma.Multiaddr, strict bool) error {
	open := h.Network().ListenAddresses()
	if !strict {
		if len(open) == 0 && len(want) > 0 {
			return fmt.Errorf("listen on %v: no address could be opened", want)
		}
		return nil
	}
	for _, a := range want {
		if listensOn(open, a) {
			continue
		}
		if err := h.Network().Listen(a); err != nil { // asked again, for the reason
			return fmt.Errorf("listen on %s: %w", a, err)
		}
	}
	return nil
}

// listensOn reports whether one of open is a, or a with a port that the system
// chose.
func listensOn(open []ma.Multiaddr, a ma.Multiaddr) bool {
	for _, o := range open {
		if o.Equal(a) || len(o) == len(a) && sameButPort(o, a) {
			return true
		}
	}
	return false
}

func sameButPort(o, a ma.Multiaddr) bool {
	for i := range a {
		oc, ac := o[i], a[i]
		if oc.Protocol().Code != ac.Protocol().Code {
			return false
		}
		port := ac.Protocol().Code == ma.P_UDP || ac.Protocol().Code == ma.P_TCP
		if oc.Value() != ac.Value() && !(port && ac.Value() == "0") {
			return false
		}
	}
	return true
}
