// Package p2p is a peer's place in the swarm: one libp2p host that listens on
// QUIC and TCP, finds other peers, stays reachable behind a NAT, answers
// requests, and keeps out whom it must.
//
// Nothing here is central. Every peer is a DHT server unless it is known to be
// unreachable, every peer can be any other's bootstrap, and whoever was met is
// remembered on disk, so a peer that restarts finds the swarm although all its
// bootstraps are gone. Peers of one run find one another under a rendezvous
// namespace, which is a provider record in a private DHT (/shoal/kad/1.0.0).
//
// A peer's identity is its secp256k1 key (wire.Key): the libp2p peer ID holds
// the compressed public key, so wire.PeerID and peer.ID are two spellings of
// one thing, and connections to any other kind of key are refused.
//
// # Requests
//
// Host.Ask and Host.Handle exchange one request and one response on a stream
// of their own:
//
//	request:   uvarint(length) ‖ bytes
//	response:  status (1 byte) ‖ uvarint(length) ‖ bytes
//
// where status is 0 for an answer, 1 for an error whose text follows, 2 for
// "busy, ask again later", 3 for "your request is too large". Both sides bound
// what they read before they allocate, and both set deadlines.
//
// # Lifetime
//
// New opens the ports. Run does the work and owns every goroutine; when it
// returns the host is closed and nothing is left behind.
package p2p

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/gologshim"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/shoalnet/shoal/p2p/wire"
)

// DefaultPort is where a peer listens, on UDP (QUIC) and TCP.
const DefaultPort = 4747

// Prefix begins every protocol ID and DHT key of this version.
const Prefix = "/shoal/1"

// DHTMode says whether a peer answers DHT queries.
type DHTMode int

// DHTAuto serves until the peer is found to be unreachable; DHTServer always,
// DHTClient never.
const (
	DHTAuto DHTMode = iota
	DHTServer
	DHTClient
)

// RelayMode says when a peer relays for members behind a NAT.
type RelayMode int

// RelayAuto relays while the peer is publicly reachable; RelayOn always,
// RelayOff never.
const (
	RelayAuto RelayMode = iota
	RelayOn
	RelayOff
)

// Config says who a host is and how it behaves. Only Key must be set.
type Config struct {
	// Key is the peer's identity.
	Key *wire.Key

	// Listen holds multiaddrs such as /ip4/0.0.0.0/udp/4747/quic-v1. Port 0
	// takes any free port. Nil means DefaultListen(DefaultPort), of which the
	// IPv6 part may fail; whatever is named here must succeed. Empty but not
	// nil listens nowhere.
	Listen []string

	// Announce holds further addresses under which others can reach this
	// peer, e.g. of a port forwarded by hand.
	Announce []string

	// AnnounceOnly announces nothing but Announce, whatever is listened on: for
	// a peer behind a forwarder that all traffic must pass.
	AnnounceOnly bool

	// Bootstrap holds multiaddrs with /p2p/ID at their end. Any peer will do.
	Bootstrap []string

	// CachePath is the file that remembers good peers and bans (peers.json in
	// the data directory). Empty: nothing is remembered.
	CachePath string

	// DHT is DHTAuto unless set.
	DHT DHTMode

	// BehindNAT skips the ~15 s in which a peer finds out that it cannot be
	// reached: it takes a relay at once. Public is the opposite claim. Not both.
	BehindNAT, Public bool

	// NoMDNS turns off discovery on the local network. A testnet needs this
	// so that its peers meet only as its schedule says.
	NoMDNS bool

	// NoPortMap leaves the router's UPnP / NAT-PMP alone.
	NoPortMap bool

	// NoAutoNAT leaves out AutoNAT v2 and learning one's address from others.
	// For simulated networks.
	NoAutoNAT bool

	// Relay bounds what this peer relays for others.
	Relay RelayConfig

	// ConnLow and ConnHigh are the connection manager's marks: above High
	// connections, the least useful are closed until Low are left besides those
	// to protected peers, which stay. The DHT protects up to 40 of its nearest
	// and farthest servers. Defaults 96 and 160.
	ConnLow, ConnHigh int

	// Memory bounds what the resource manager lets libp2p take, in bytes.
	// Default: an eighth of the machine's, at most 2 GiB.
	Memory int64

	// Allow, if set, is who may connect at all (a closed run). It must be quick
	// and safe for concurrent use. See also Host.SetAllow.
	Allow func(wire.PeerID) bool

	// Clients is how many peers whose key is not secp256k1, ordinary IPFS
	// clients, may be connected at a time to fetch blocks. They get no gossip,
	// no answers and no relay; which blocks, the block exchange's policy says.
	// A closed run (Allow) lets none in. Default 0.
	Clients int

	// Rediscover is the longest pause between two searches of a rendezvous
	// namespace; with few members the host searches more often. Default 1 min.
	Rediscover time.Duration

	// Log receives what a person may want to know. Default slog.Default().
	Log *slog.Logger

	// Options are applied last. For tests: a simulated network.
	Options []libp2p.Option
}

// RelayConfig bounds the relay service. Circuits themselves are without
// libp2p's limits (limited circuits carry neither gossip nor blocks); these
// bounds replace them.
type RelayConfig struct {
	// Mode is RelayAuto unless set.
	Mode RelayMode

	// Quota is how many bytes one peer may send and receive over our relay in
	// an hour that begins with its first byte. A circuit that exceeds it is
	// cut, and the peer gets no new one until the hour is over. Default 1 GiB.
	Quota int64

	// Total is the same for all peers together. Default 16 GiB.
	Total int64

	// Circuits bounds how many circuits one peer may have open. Default 16.
	Circuits int
}

// DefaultListen returns the addresses for QUIC and TCP on the given port, IPv4
// and IPv6.
func DefaultListen(port int) []string {
	return []string{
		fmt.Sprintf("/ip4/0.0.0.0/udp/%d/quic-v1", port),
		fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", port),
		fmt.Sprintf("/ip6/::/udp/%d/quic-v1", port),
		fmt.Sprintf("/ip6/::/tcp/%d", port),
	}
}

// withDefaults returns a copy of c with every unset field set.
func (c Config) withDefaults() Config {
	if c.ConnLow == 0 {
		c.ConnLow = 96
	}
	if c.ConnHigh == 0 {
		c.ConnHigh = max(160, c.ConnLow+c.ConnLow/2)
	}
	if c.Relay.Quota == 0 {
		c.Relay.Quota = 1 << 30
	}
	if c.Relay.Total == 0 {
		c.Relay.Total = 16 << 30
	}
	if c.Relay.Circuits == 0 {
		c.Relay.Circuits = 16
	}
	if c.Rediscover == 0 {
		c.Rediscover = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// validate checks c, after withDefaults, and parses its addresses.
func (c *Config) validate() (listen, announce []ma.Multiaddr, bootstrap []peer.AddrInfo, err error) {
	fail := func(field string, err error) ([]ma.Multiaddr, []ma.Multiaddr, []peer.AddrInfo, error) {
		return nil, nil, nil, fmt.Errorf("p2p config: %s: %w", field, err)
	}
	switch {
	case c.Key == nil:
		return fail("key", errors.New("is missing"))
	case c.BehindNAT && c.Public:
		return fail("behind NAT", errors.New("a peer is behind a NAT or public, not both"))
	case c.ConnLow < 8 || c.ConnHigh < c.ConnLow:
		return fail("connection marks", fmt.Errorf("low %d, high %d: want 8 <= low <= high", c.ConnLow, c.ConnHigh))
	case c.Relay.Quota < 0 || c.Relay.Total < 0 || c.Relay.Circuits < 0:
		return fail("relay", errors.New("limits must not be negative"))
	case c.Memory < 0 || c.Rediscover < 0:
		return fail("memory or rediscover", errors.New("must not be negative"))
	case len(c.Listen) > 16 || len(c.Announce) > 16 || len(c.Bootstrap) > 256:
		return fail("addresses", errors.New("more than 16 to listen on or announce, or more than 256 bootstraps"))
	}
	parse := func(field string, in []string) (out []ma.Multiaddr, err error) {
		for _, s := range in {
			a, err := ma.NewMultiaddr(s)
			if err != nil {
				return nil, fmt.Errorf("p2p config: %s: %q: %w (want e.g. /ip4/0.0.0.0/udp/%d/quic-v1)", field, s, err, DefaultPort)
			}
			out = append(out, a)
		}
		return out, nil
	}
	names := c.Listen
	if names == nil {
		names = DefaultListen(DefaultPort)
	}
	if listen, err = parse("listen", names); err != nil {
		return nil, nil, nil, err
	}
	for i, a := range listen {
		if !listens(a) {
			return fail("listen", fmt.Errorf("%q: want an IP address and TCP or QUIC, e.g. /ip4/0.0.0.0/udp/%d/quic-v1 or /ip4/0.0.0.0/tcp/%d", names[i], DefaultPort, DefaultPort))
		}
	}
	if announce, err = parse("announce", c.Announce); err != nil {
		return nil, nil, nil, err
	}
	for _, s := range c.Bootstrap {
		info, err := parseAddr(s)
		if err != nil {
			return fail("bootstrap", err)
		}
		bootstrap = append(bootstrap, info)
	}
	return listen, announce, bootstrap, nil
}

// listens says whether a host can listen on a: an IP address, and TCP or QUIC.
func listens(a ma.Multiaddr) bool {
	var ps []int
	for _, p := range a.Protocols() {
		ps = append(ps, p.Code)
	}
	if len(ps) < 2 || ps[0] != ma.P_IP4 && ps[0] != ma.P_IP6 {
		return false
	}
	return slices.Equal(ps[1:], []int{ma.P_TCP}) || slices.Equal(ps[1:], []int{ma.P_UDP, ma.P_QUIC_V1})
}

// LogLibp2p makes libp2p log to h; before the first host is made. By itself it writes errors to standard error.
func LogLibp2p(h slog.Handler) { gologshim.SetDefaultHandler(h) }

// parseAddr parses a multiaddr that ends in /p2p/ID of a secp256k1 peer.
func parseAddr(s string) (peer.AddrInfo, error) {
	if len(s) > 1024 {
		return peer.AddrInfo{}, errors.New("address is too long")
	}
	info, err := peer.AddrInfoFromString(s)
	if err != nil {
		return peer.AddrInfo{}, fmt.Errorf("%q: %w (want e.g. /ip4/192.0.2.1/udp/%d/quic-v1/p2p/16Uiu2...)", s, err, DefaultPort)
	}
	if _, err := ToWire(info.ID); err != nil {
		return peer.AddrInfo{}, fmt.Errorf("%q: %w", s, err)
	}
	if len(info.Addrs) == 0 {
		return peer.AddrInfo{}, fmt.Errorf("%q names a peer but no address of it", s)
	}
	return *info, nil
}
