package gossip

import (
	"net"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/shoalnet/shoal/p2p"
)

// thresholds are lotus's: below gossip no IHAVE, below publish no messages of
// ours, below graylist nothing of the peer is read. Peers offered in exchange
// when one is pruned (PX) are dialled only if the one who offers them has
// brought news: a score that time and first deliveries can reach.
func thresholds() *pubsub.PeerScoreThresholds {
	return &pubsub.PeerScoreThresholds{
		GossipThreshold:             -500,
		PublishThreshold:            -1000,
		GraylistThreshold:           -2500,
		AcceptPXThreshold:           10,
		OpportunisticGraftThreshold: 3.5,
	}
}

func scoreParams(c *Config) *pubsub.PeerScoreParams {
	p := &pubsub.PeerScoreParams{
		Topics:                      make(map[string]*pubsub.TopicScoreParams),
		TopicScoreCap:               500,
		AppSpecificScore:            func(peer.ID) float64 { return 0 },
		AppSpecificWeight:           1,
		IPColocationFactorWeight:    -100,
		IPColocationFactorThreshold: max(c.Colocation, 1),
		IPColocationFactorWhitelist: []*net.IPNet{
			{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
			{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
		},
		BehaviourPenaltyThreshold: 6,
		BehaviourPenaltyWeight:    -10,
		BehaviourPenaltyDecay:     pubsub.ScoreParameterDecay(time.Hour),
		DecayInterval:             pubsub.DefaultDecayInterval,
		DecayToZero:               pubsub.DefaultDecayToZero,
		RetainScore:               6 * time.Hour,
	}
	if c.Colocation < 0 {
		p.IPColocationFactorWeight = 0
	}
	if f := c.Score; f != nil {
		p.AppSpecificScore = func(id peer.ID) float64 {
			if w, err := p2p.ToWire(id); err == nil {
				return f(w)
			}
			return 0
		}
	}
	return p
}

// topicScore are the parameters of each topic: some score for time in the mesh
// and for being first, and a steep price for messages that a judge rejects.
// With weight 0.5, n recent rejections cost 200 n²: two of them end gossip, three
// publishing, four everything. Missing deliveries cost nothing: in a small,
// slow topic they would punish the honest.
func topicScore() *pubsub.TopicScoreParams {
	return &pubsub.TopicScoreParams{
		TopicWeight:                    0.5,
		TimeInMeshWeight:               0.01,
		TimeInMeshQuantum:              time.Second,
		TimeInMeshCap:                  1000,
		FirstMessageDeliveriesWeight:   0.5,
		FirstMessageDeliveriesDecay:    pubsub.ScoreParameterDecay(10 * time.Minute),
		FirstMessageDeliveriesCap:      100,
		InvalidMessageDeliveriesWeight: -400,
		InvalidMessageDeliveriesDecay:  pubsub.ScoreParameterDecay(time.Hour),
	}
}
