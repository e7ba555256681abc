package httpgw

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"testing"
)

const (
	// flood is how much a stream carries, more than could be held unseen.
	flood = 128 << 20
	// held is how much of it may be in memory at any time: buffers of both
	// connections and of what a garbage collector has not come to.
	held = 32 << 20
)

// heap returns the bytes that are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// zeros is an endless source.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestAnUploadIsNotHeldInMemory: declared, chunked, and over HTTP/2.
func TestAnUploadIsNotHeldInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("an eighth of a gigabyte each")
	}
	var peak int64
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		before := heap()
		var n int64
		for n < flood {
			k, err := io.CopyN(io.Discard, req.Body, flood/8)
			n += k
			if err != nil {
				break
			}
			peak = max(peak, heap()-before)
		}
		fmt.Fprint(w, n)
	})))
	want := fmt.Sprint(int64(flood))
	for _, chunked := range []bool{false, true} {
		conn, _ := r.connect()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+testHost+"/api/a", io.LimitReader(zeros{}, flood))
		if err != nil {
			t.Fatal(err)
		}
		if !chunked {
			req.ContentLength = flood
		}
		if err := req.Write(conn); err != nil {
			t.Fatal(err)
		}
		if resp, body := r.read(bufio.NewReader(conn), "POST"); body != want {
			t.Errorf("chunked %v: answered %s %s", chunked, resp.Status, body)
		}
		conn.Close()
	}
	c, _ := r.client2()
	resp, err := c.Post("https://"+testHost+"/api/a", "", io.LimitReader(zeros{}, flood))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != want {
		t.Errorf("HTTP/2: answered %s %s %v", resp.Status, body, err)
	}
	if peak > held {
		t.Errorf("%d MB held of a stream", peak>>20)
	}
}

func TestADownloadIsNotHeldInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("an eighth of a gigabyte each")
	}
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.CopyN(w, zeros{}, flood)
	})))
	check := func(name string, from io.Reader) {
		before, peak, n := heap(), int64(0), int64(0)
		var err error
		for err == nil {
			var k int64
			k, err = io.CopyN(io.Discard, from, flood/8)
			n += k
			peak = max(peak, heap()-before)
		}
		if !errors.Is(err, io.EOF) || n != flood || peak > held {
			t.Errorf("%s: %d bytes, %d MB held, %v", name, n, peak>>20, err)
		}
	}
	conn, _ := r.connect()
	fmt.Fprint(conn, get("/api/a"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	check("HTTP/1.1", resp.Body)
	c, _ := r.client2()
	resp, err = c.Get("https://" + testHost + "/api/a")
	if err != nil {
		t.Fatal(err)
	}
	check("HTTP/2", resp.Body)
	resp.Body.Close()
}

// TestBytesPassUnchanged: in both directions, at sizes around those of buffers.
func TestBytesPassUnchanged(t *testing.T) {
	r := newRig(t, serveBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		_, _ = w.Write(b)
	})))
	conn, _ := r.connect()
	br := bufio.NewReader(conn)
	c, _ := r.client2()
	for _, size := range []int{0, 1, readSize - 1, readSize, readSize + 1, writeSize - 1, writeSize, writeSize + 1, copySize - 1, copySize, copySize + 1, 3*copySize + 7} {
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(i * 7)
		}
		for _, chunked := range []bool{false, true} {
			var body io.Reader = bytes.NewReader(want)
			if chunked {
				body = io.MultiReader(body)
			}
			req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+testHost+"/api/a", body)
			if err != nil {
				t.Fatal(err)
			}
			errs := make(chan error, 1)
			go func() { errs <- req.Write(conn) }()
			if resp, got := r.read(br, "POST"); resp.StatusCode != 200 || got != string(want) {
				t.Errorf("%d bytes, chunked %v: answered %s with %d bytes", size, chunked, resp.Status, len(got))
			}
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		resp, err := c.Post("https://"+testHost+"/api/a", "", bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, HTTP/2: answered %s with %d bytes, %v", size, resp.Status, len(got), err)
		}
	}
}
