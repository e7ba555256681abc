package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// A Mode is a way to behave.
type Mode string

// The modes.
const (
	// Churn connects, sends one request and disconnects, again and again.
	Churn Mode = "churn"
	// Idle connects, sends one request on each connection, and stays. Each
	// connection that the gateway ends is an event, "closed".
	Idle Mode = "idle"
	// Transfer sends a large body, or receives one, over each of its connections.
	Transfer Mode = "transfer"
	// Rate sends requests at a constant rate, whatever becomes of them.
	Rate Mode = "rate"
	// Storm connects with every device at once, and again until each was served.
	Storm Mode = "storm"
)

// A Plan says what a fleet does. Fields that a mode does not name are not used.
type Plan struct {
	Mode       Mode
	Addr       string // of the gateway
	ServerName string
	Roots      string // PEM file the gateway's certificate is checked against
	Cert, Key  string // PEM files of the device; empty for none
	Devices    string // file of devices to be instead (ReadDevices): connection i is device i of the first Count, again and again
	Count      int
	Skip       int    // of the file's devices, so many at its begin
	First      int    // Idle, Storm: number of the first connection
	Group      string // of the key exchange, as crypto/tls names it

	Method, Path, ContentType string
	Body                      string // file; empty for none

	Connections int // at a time
	Duration    time.Duration
	Bytes       int64   // Transfer: a body's size
	Rate        float64 // Rate: requests in a second
	Stay        bool    // Storm: devices stay connected
	WebSocket   bool    // Idle: the one request asks for a WebSocket
	Resume      bool    // Churn: with the ticket of the connection before
}

// A Report is what a fleet saw.
type Report struct {
	Requests  int64            // answered with success
	Failed    map[string]int64 // by reason; a reason is one line without numbers that vary
	Refused   map[string]int64 // Storm: tries that failed and were followed by another, by reason
	Tries     int64            // Storm: the most that one device needed
	Elapsed   time.Duration
	Resumed   int64         // connections that resumed a session
	Bytes     int64         // Transfer: a body's
	FirstByte time.Duration // Transfer: until the first byte of the last body was at the other end
	Latency   *Spread       // Rate: from when a request was due; Storm: from the storm's begin until served
	TLS       string        // version, group and cipher suite, as negotiated
}

// An Event is a line of a fleet's standard output.
type Event struct {
	Event  string    // "ready", "done", "closed" or "error"
	Error  string    `json:",omitempty"`
	Report *Report   `json:",omitempty"`
	Device int       `json:",omitempty"` // closed: number of the connection
	At     time.Time `json:",omitzero"`  // closed: when
}

// Words on standard input.
const (
	Go   = "go"   // starts what is measured
	Stop = "stop" // Rate: ends it before its time
)

// a run is a plan being carried out.
type run struct {
	Plan
	in  *bufio.Scanner
	tls *client
	req []byte

	telling sync.Mutex // held over out
	out     *json.Encoder

	mu     sync.Mutex
	report Report
}

// Main carries out the plan that plan holds in JSON, and returns an exit code.
func Main(ctx context.Context, plan string, stdin io.Reader, stdout io.Writer) int {
	r := &run{in: bufio.NewScanner(stdin), out: json.NewEncoder(stdout), report: Report{Failed: map[string]int64{}, Refused: map[string]int64{}}}
	err := json.Unmarshal([]byte(plan), &r.Plan)
	if err == nil {
		err = r.carryOut(ctx)
	}
	if err != nil {
		_ = r.tell(Event{Event: "error", Error: err.Error()}) // nobody left to tell
		return 1
	}
	return 0
}

func (r *run) carryOut(ctx context.Context) (err error) {
	if r.tls, err = newClient(&r.Plan); err != nil {
		return err
	}
	if r.req, err = request(&r.Plan); err != nil {
		return err
	}
	modes := map[Mode]func(context.Context) error{Churn: r.churn, Idle: r.idle, Transfer: r.transfer, Rate: r.rate, Storm: r.storm}
	f := modes[r.Mode]
	if f == nil {
		return fmt.Errorf("no mode %q; there are %v", r.Mode, slices.Sorted(maps.Keys(modes)))
	}
	return f(ctx)
}

// ready says that what is measured may begin, and waits for the word. It
// returns false when there is nobody any more to give it.
func (r *run) ready() (bool, error) {
	if err := r.tell(Event{Event: "ready"}); err != nil {
		return false, err
	}
	for r.in.Scan() {
		if r.in.Text() == Go {
			return true, nil
		}
	}
	return false, r.in.Err()
}

// done says what was seen since began.
func (r *run) done(began time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Elapsed = time.Since(began)
	r.report.TLS = r.tls.negotiated()
	return r.tell(Event{Event: "done", Report: &r.report})
}

// tell says something.
func (r *run) tell(e Event) error {
	r.telling.Lock()
	defer r.telling.Unlock()
	return r.out.Encode(e)
}

// failed counts a failure.
func (r *run) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Failed[reason(err)]++
}

// answered counts requests, and how many of their connections resumed a session.
func (r *run) answered(requests, resumed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Requests += requests
	r.report.Resumed += resumed
}
