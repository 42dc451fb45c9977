package diloco

import "github.com/shoalnet/shoal/p2p/wire"

// Recall tells a machine that was just restored which commit it had found
// final before. The attestations of others that showed it are not in the
// journal, and a run that is over may have nobody left to repeat them.
func (m *Machine) Recall(final wire.CID) []Effect {
	if n := m.nodes[final]; n != nil {
		m.finalize(n)
	}
	return m.settle()
}
