package telemetry

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics are the gateway's metrics on a registry of their own. Methods are safe
// for concurrent use.
type Metrics struct {
	Registry *prometheus.Registry

	transactions *prometheus.CounterVec
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	decision     prometheus.Histogram
	handshakes   *prometheus.CounterVec
	turns        prometheus.Histogram
	distrusted   prometheus.Counter
	sessions     *prometheus.GaugeVec
	policyLoads  *prometheus.CounterVec
	policyInfo   *prometheus.GaugeVec
	backendUp    *prometheus.GaugeVec
	shareWaits   *prometheus.CounterVec
	shareTime    *prometheus.CounterVec
	obligations  *prometheus.CounterVec
	enrolments   *prometheus.CounterVec
	breakGlass   *prometheus.CounterVec
	expiries     *prometheus.CounterVec
	findings     *prometheus.CounterVec
	onFailure    *prometheus.CounterVec

	// What is counted with every request.
	transactionsBy memo[transaction, prometheus.Counter]
	requestsBy     memo[request, answered]
}

// Labels' values, in the order of the labels.
type (
	transaction struct{ listener, route, protocol, result string }
	request     struct{ listener, route, status string }
)

// answered is what an answered request is counted by.
type answered struct {
	count prometheus.Counter
	took  prometheus.Observer
}

// NewMetrics returns metrics that are all zero.
func NewMetrics() *Metrics {
	m := &Metrics{Registry: prometheus.NewRegistry()}
	m.transactions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_transactions_total",
		Help: "Transactions decided or refused, by result: allow, deny (policy), would-deny (allowed by a route that only observes), device (status), limit (limit_rps, limit_bytes), obligation (one that could not be met), fault (ours), malformed.",
	}, []string{"listener", "route", "protocol", "result"})
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_http_requests_total", Help: "HTTP requests answered, by class of status.",
	}, []string{"listener", "route", "status"})
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "anteroom_http_request_seconds", Help: "From the head of a request to the end of its answer, backend included.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
	}, []string{"listener", "route"})
	m.decision = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "anteroom_decision_seconds", Help: "Time to evaluate the policies for one transaction, where the decision was not remembered.",
		Buckets: []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 1e-2, 1e-1},
	})
	m.handshakes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_handshakes_total", Help: "TLS handshakes, by result: ok, or the reason for the refusal.",
	}, []string{"listener", "result"})
	m.turns = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "anteroom_handshake_wait_seconds", Help: "From the first bytes of a device that connects to its turn to have its handshake computed.",
		Buckets: []float64{.001, .01, .1, .5, 1, 2.5, 5, 10, 30, 60, 120},
	})
	m.distrusted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "anteroom_policy_plan_distrusted_total",
		Help: "Policy sets whose plan gave another decision than OPA's evaluator, which decides alone from then on: a fault of the gateway to be reported.",
	})
	m.sessions = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "anteroom_sessions", Help: "Live device connections.",
	}, []string{"listener"})
	m.policyLoads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_policy_loads_total", Help: "Policy sets loaded or refused.",
	}, []string{"result"})
	m.policyInfo = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "anteroom_policy_info", Help: "1 for the policy revision in force.",
	}, []string{"revision"})
	m.backendUp = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "anteroom_backend_up", Help: "1 while an address of a backend is healthy.",
	}, []string{"backend", "address"})
	m.shareWaits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_backend_device_waits_total",
		Help: "Requests that waited because their device had as many at the backend as one may have (max_per_device), by what came of it: served, refused (503), gone (the device gave up).",
	}, []string{"backend", "result"})
	m.shareTime = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_backend_device_wait_seconds_total", Help: "How long these waited, together.",
	}, []string{"backend"})
	m.breakGlass = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_break_glass_decisions_total", Help: "Transactions decided under an emergency grant, by result as in anteroom_transactions_total.",
	}, []string{"result"})
	m.obligations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_obligations_total",
		Help: "Obligations of decisions that did something, by result: refused (a limit was met), done, failed, skipped, unable (and denied for it).",
	}, []string{"kind", "result"})
	m.enrolments = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_enrolments_total",
		Help: "Requests for a device's certificate, by way and result: granted, repeated (an answer that was lost), or why they were refused.",
	}, []string{"way", "result"})
	m.expiries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_expiry_warnings_total",
		Help: "Warnings that the last certificate of an active device ends within so many days; 0: that it has ended.",
	}, []string{"days"})
	m.findings = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_findings_total",
		Help: "What the gateway found out about devices and a person should look at: clone (a certificate in use at two places at once), clock (a device's clock is wrong).",
	}, []string{"kind"})
	m.onFailure = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "anteroom_on_failure_total",
		Help: "Allowed transactions, entries of Bundles among them, on routes with on_failure: pass that the audit log did not take for want of disk, by what came of each: passed (recorded in its reserve), refused.",
	}, []string{"route", "result"})
	m.Registry.MustRegister(m.onFailure, m.turns, m.distrusted, m.shareWaits, m.shareTime, m.findings, m.expiries, m.breakGlass, m.enrolments, m.obligations, m.transactions, m.requests, m.duration, m.decision, m.handshakes, m.sessions, m.policyLoads, m.policyInfo,
		m.backendUp, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Transaction counts a decided or refused transaction.
func (m *Metrics) Transaction(listener, route, protocol, result string, took time.Duration) {
	m.transactionsBy.of(transaction{listener, route, protocol, result}, func() prometheus.Counter {
		return m.transactions.WithLabelValues(listener, route, protocol, result)
	}).Inc()
	if took > 0 {
		m.decision.Observe(took.Seconds())
	}
}

// Obligation counts an obligation that was met, or was not.
func (m *Metrics) Obligation(kind, result string) {
	m.obligations.WithLabelValues(kind, result).Inc()
}

// BreakGlass counts a decision under an emergency grant.
func (m *Metrics) BreakGlass(result string) { m.breakGlass.WithLabelValues(result).Inc() }

// OnFailure counts what came of a transaction that the audit log did not take, on a
// route that passes reports then.
func (m *Metrics) OnFailure(route, result string) {
	m.onFailure.WithLabelValues(route, result).Inc()
}

// statusClasses are the values of the status label.
var statusClasses = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// Request counts an answered HTTP request; status 0 means it got no answer.
func (m *Metrics) Request(listener, route string, status int, took time.Duration) {
	class := statusClasses[0]
	if c := status / 100; c > 0 && c < len(statusClasses) {
		class = statusClasses[c]
	}
	by := m.requestsBy.of(request{listener, route, class}, func() answered {
		return answered{m.requests.WithLabelValues(listener, route, class), m.duration.WithLabelValues(listener, route)}
	})
	by.count.Inc()
	by.took.Observe(took.Seconds())
}

// Handshake counts a TLS handshake.
func (m *Metrics) Handshake(listener, result string) {
	m.handshakes.WithLabelValues(listener, result).Inc()
}

// Turn counts a handshake whose turn has come, by how long it waited.
func (m *Metrics) Turn(waited time.Duration) { m.turns.Observe(waited.Seconds()) }

// PlanDistrusted counts a policy set whose plan is not asked any more.
func (m *Metrics) PlanDistrusted(string) { m.distrusted.Inc() }

// Enrolment counts a request for a device's certificate.
func (m *Metrics) Enrolment(way, result string) { m.enrolments.WithLabelValues(way, result).Inc() }

// ExpiryWarned counts a warning of a device's certificate's end.
func (m *Metrics) ExpiryWarned(days int) { m.expiries.WithLabelValues(strconv.Itoa(days)).Inc() }

// Found counts a finding that is news.
func (m *Metrics) Found(kind string) { m.findings.WithLabelValues(kind).Inc() }

// Session counts a session that begins (1) or ends (-1).
func (m *Metrics) Session(listener string, delta int) {
	m.sessions.WithLabelValues(listener).Add(float64(delta))
}

// PolicyLoaded says which revision is in force.
func (m *Metrics) PolicyLoaded(revision string) {
	m.policyLoads.WithLabelValues("loaded").Inc()
	m.policyInfo.Reset()
	m.policyInfo.WithLabelValues(revision).Set(1)
}

// PolicyRefused counts a policy set that was not loaded.
func (m *Metrics) PolicyRefused() { m.policyLoads.WithLabelValues("refused").Inc() }

// BackendUp says whether an address of a backend is healthy.
func (m *Metrics) BackendUp(backend, address string, up bool) {
	v := 0.0
	if up {
		v = 1
	}
	m.backendUp.WithLabelValues(backend, address).Set(v)
}

// BackendShare counts a request that waited for others of its device.
func (m *Metrics) BackendShare(backend, result string, waited time.Duration) {
	m.shareWaits.WithLabelValues(backend, result).Inc()
	m.shareTime.WithLabelValues(backend).Add(waited.Seconds())
}

// BackendGone forgets a backend that is no longer configured.
func (m *Metrics) BackendGone(backend string) {
	m.shareWaits.DeletePartialMatch(prometheus.Labels{"backend": backend})
	m.shareTime.DeletePartialMatch(prometheus.Labels{"backend": backend})
	m.backendUp.DeletePartialMatch(prometheus.Labels{"backend": backend})
}

// Gauge adds a gauge that is asked for its value when metrics are read.
func (m *Metrics) Gauge(name, help string, value func() float64) {
	m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// Gauges adds a gauge with one label, whose values are asked for when metrics
// are read. The label's values must be few and known beforehand.
func (m *Metrics) Gauges(name, help, label string, values func() map[string]float64) {
	m.Table(name, help, []string{label}, func() (rows []Row) {
		for l, v := range values() {
			rows = append(rows, Row{[]string{l}, v})
		}
		return rows
	})
}

// A Row is one value of a gauge with labels.
type Row struct {
	Labels []string
	Value  float64
}

// Table adds a gauge with labels, whose rows are asked for when metrics are
// read. Their number must be bounded. Rows with equal labels are added up.
func (m *Metrics) Table(name, help string, labels []string, rows func() []Row) {
	m.Registry.MustRegister(&table{prometheus.NewDesc(name, help, labels, nil), rows})
}

type table struct {
	desc *prometheus.Desc
	rows func() []Row
}

// Describe implements prometheus.Collector.
func (t *table) Describe(c chan<- *prometheus.Desc) { c <- t.desc }

// Collect implements prometheus.Collector.
func (t *table) Collect(c chan<- prometheus.Metric) {
	sums := map[string]*Row{}
	for _, r := range t.rows() {
		key := fmt.Sprintf("%q", r.Labels)
		if sums[key] == nil {
			sums[key] = &Row{Labels: r.Labels}
		}
		sums[key].Value += r.Value
	}
	for _, r := range sums {
		c <- prometheus.MustNewConstMetric(t.desc, prometheus.GaugeValue, r.Value, r.Labels...)
	}
}
