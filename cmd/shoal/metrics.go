package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/shoalnet/shoal/node"
)

// metrics serves a node's status as Prometheus metrics.
func metrics(status func() node.Status) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(statusCollector{status}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// statusCollector reads one status for each scrape.
type statusCollector struct{ status func() node.Status }

// A sample is one metric that follows from a status.
type sample struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*node.Status) float64
}

func newSample(name, help string, kind prometheus.ValueType, value func(*node.Status) float64) sample {
	return sample{prometheus.NewDesc("shoal_"+name, help, nil, nil), kind, value}
}

var (
	samples = []sample{
		newSample("round", "Round of the head.", prometheus.GaugeValue, func(s *node.Status) float64 { return float64(s.Round) }),
		newSample("final_round", "Round of the last final commit.", prometheus.GaugeValue, func(s *node.Status) float64 { return float64(s.FinalRound) }),
		newSample("inner_step", "Inner steps done in this round.", prometheus.GaugeValue, func(s *node.Status) float64 { return float64(s.InnerStep) }),
		newSample("train_loss", "Mean training loss of this round so far, nats per token.", prometheus.GaugeValue, func(s *node.Status) float64 { return s.Loss }),
		newSample("val_loss", "Validation loss of the last evaluated state, nats per token.", prometheus.GaugeValue, func(s *node.Status) float64 { return s.ValLoss }),
		newSample("tokens_per_second", "Training speed of this peer.", prometheus.GaugeValue, func(s *node.Status) float64 { return s.TokensPerS }),
		newSample("tokens_total", "Tokens that this peer trained on.", prometheus.CounterValue, func(s *node.Status) float64 { return float64(s.Tokens) }),
		newSample("peers", "Peers connected in the run's topic.", prometheus.GaugeValue, func(s *node.Status) float64 { return float64(s.Peers) }),
		newSample("roster", "Members of the head's roster.", prometheus.GaugeValue, func(s *node.Status) float64 { return float64(s.Roster) }),
		newSample("received_bytes_total", "Bytes received since the start.", prometheus.CounterValue, func(s *node.Status) float64 { return float64(s.BytesIn) }),
		newSample("sent_bytes_total", "Bytes sent since the start.", prometheus.CounterValue, func(s *node.Status) float64 { return float64(s.BytesOut) }),
		newSample("rounds_contributed_total", "Deltas of this peer in commits of the chain.", prometheus.CounterValue, func(s *node.Status) float64 { return float64(s.RoundsContributed) }),
		newSample("done", "1 once the run is over.", prometheus.GaugeValue, func(s *node.Status) float64 {
			if s.Done {
				return 1
			}
			return 0
		}),
	}
	rejections = prometheus.NewDesc("shoal_rejections_total", "Messages and blocks refused, by reason.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (c statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range samples {
		ch <- s.desc
	}
	ch <- rejections
}

// Collect implements prometheus.Collector.
func (c statusCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.status()
	for _, s := range samples {
		ch <- prometheus.MustNewConstMetric(s.desc, s.kind, s.value(&st))
	}
	for reason, n := range st.Rejections {
		ch <- prometheus.MustNewConstMetric(rejections, prometheus.CounterValue, float64(n), reason)
	}
}
