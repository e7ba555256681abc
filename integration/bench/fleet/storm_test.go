package fleet

import (
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

func TestInAStormEveryDeviceTriesUntilItIsServed(t *testing.T) {
	var served atomic.Int64
	p := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if served.Add(1) <= 5 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		created(w, r)
	}))
	p.Mode, p.Connections, p.Duration, p.Stay = Storm, 20, patienceInTests, true
	c := start(t, p)
	c.await("ready")
	c.say(Go)
	rep := c.await("done").Report
	if rep.Requests != 20 || len(rep.Failed) > 0 || rep.Refused["answered with status 503"] != 5 || rep.Tries < 2 || rep.Latency.N != 20 {
		t.Errorf("%+v", rep)
	}
	if rep.Latency.Max < firstPause/2 {
		t.Errorf("the last was served after %v, sooner than a second try can be", rep.Latency.Max)
	}
}

func TestAStormThatDoesNotEndIsAFailureOfEachDevice(t *testing.T) {
	p := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	p.Mode, p.Connections, p.Duration = Storm, 3, 20*time.Millisecond
	c := start(t, p)
	c.await("ready")
	c.say(Go)
	rep := c.await("done").Report
	var failed int64
	for _, n := range rep.Failed {
		failed += n
	}
	if rep.Requests != 0 || failed != 3 {
		t.Errorf("%+v", rep)
	}
}

func TestTheEndOfAnIdleSessionIsTold(t *testing.T) {
	p := serve(t, http.HandlerFunc(created))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	addr, ended := p.Addr, make(chan func(), 16)
	go func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", addr)
			if err != nil {
				from.Close()
				continue
			}
			go pipe(from, to)
			ended <- func() { from.Close(); to.Close() }
		}
	}()
	p.Addr, p.Mode, p.Connections, p.First = ln.Addr().String(), Idle, 1, 7
	c := start(t, p)
	c.await("ready")
	c.say(Go)
	c.await("done")
	(<-ended)() // that of the connection before what is measured
	before := time.Now()
	(<-ended)()
	if e := c.await("closed"); e.Device != 7 || e.At.Before(before.Add(-time.Millisecond)) {
		t.Errorf("told %+v", e)
	}
	c.in.Close()
	if code := <-c.code; code != 0 {
		t.Errorf("the fleet ends with %d", code)
	}
}
