package httpgw

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 section 4.2.2 fixes it; nothing rests on its strength
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/http1"
	"github.com/anteroom-iomt/anteroom/pkg/upstream"
)

const (
	// websocketGUID is RFC 6455 section 1.3's constant.
	websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	// closeWait bounds how long a closing frame may take to leave.
	closeWait = time.Second
)

// policyClose is an unmasked Close frame with status 1008, policy violation
// (RFC 6455 sections 5.5.1 and 7.4.1), and nothing that says why.
var policyClose = []byte{0x88, 0x02, 0x03, 0xf0}

// upgrade serves a request that asks to go on in another protocol. WebSocket on
// routes that allow it passes as one transaction; everything else is refused,
// h2c above all, which would carry requests that nobody judges.
func (x *exchange) upgrade() {
	key, f := x.checkUpgrade()
	if f != nil {
		x.refuse(f)
		return
	}
	// The session holds the transaction from before its decision on, so that no
	// change of the policy set or the device's record falls between the two.
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	t := &tunnel{end: cancel}
	defer t.leave()
	defer x.s.Hold(func() bool { return t.again(x) }, t.stop)()
	if !x.judge(&x.tx) {
		return
	}
	if x.s.IsDraining() {
		// It would be a connection that lasts in a session that is to end.
		x.g.cfg.Judge.Undelivered(x.s, x.id, "the session is ending")
		x.write(http.StatusServiceUnavailable, "the session is ending: connect again", true)
		return
	}
	x.websocket(ctx, key, t)
}

// again judges the upgrade anew and reports whether it may go on.
func (t *tunnel) again(x *exchange) bool {
	t.judging.Lock()
	defer t.judging.Unlock()
	if t.left {
		return true // there is nothing to go on, and x is another request's
	}
	tx := x.m.transaction()
	tx.Again, tx.Obliged = true, x
	v := x.g.cfg.Judge.Judge(x.s.Context(), x.s, &x.route.Route, &tx)
	x.duties.Store(v.Obligations)
	return v.Allow
}

// A tunnel is an upgraded connection, or one that is about to be, which a later
// decision may end.
type tunnel struct {
	mu     sync.Mutex
	denied bool
	end    func() // ends what goes on at the moment

	// judging is held while it is judged again. The session may begin that while
	// the transaction ends, and the exchange is then used for the next request.
	judging sync.Mutex
	left    bool
}

// leave waits for a decision that is being made, and lets none begin any more.
func (t *tunnel) leave() {
	t.judging.Lock()
	t.left = true
	t.judging.Unlock()
}

// stop ends the tunnel for good.
func (t *tunnel) stop() {
	t.mu.Lock()
	t.denied = true
	end := t.end
	t.mu.Unlock()
	end()
}

// open makes end what stop calls, and reports false if stop was called already.
func (t *tunnel) open(end func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = end
	return !t.denied
}

// checkUpgrade checks the opening handshake (RFC 6455 section 4.2.1).
func (x *exchange) checkUpgrade() (key string, f *fault) {
	h := x.m.header
	proto, n := h.Get("upgrade")
	version, nv := h.Get("sec-websocket-version")
	key, nk := h.Get("sec-websocket-key")
	raw, err := base64.StdEncoding.DecodeString(key)
	switch {
	case n != 1 || !strings.EqualFold(proto, "websocket"):
		return "", bad("the request asks for a protocol other than WebSocket")
	case !x.route.websocket:
		return "", bad("the route does not allow WebSocket")
	case x.m.method != http.MethodGet || x.m.version != "1.1" || !x.m.conn.upgrade:
		return "", bad("a WebSocket handshake is a GET of HTTP/1.1 with Connection: upgrade")
	case nv != 1 || version != "13":
		return "", &fault{http.StatusUpgradeRequired, "the WebSocket version is not 13", true}
	case nk != 1 || err != nil || len(raw) != 16:
		return "", bad("the Sec-WebSocket-Key is not 16 bytes in base64")
	}
	return key, nil
}

// acceptKey returns the Sec-WebSocket-Accept that goes with a key.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + websocketGUID)) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

// websocket asks the backend, passes its answer on, and then copies both ways
// until either side, the session or a later decision ends it.
func (x *exchange) websocket(ctx context.Context, key string, t *tunnel) {
	dialled, err := x.route.backend.Dial(ctx)
	if err != nil {
		x.failed(err)
		return
	}
	awake, wake := context.WithCancel(x.ctx)
	up := wakingConn{dialled, wake}
	defer up.Close()
	// The end of the session or of the tunnel interrupts everything below.
	stop := context.AfterFunc(ctx, func() { up.Close() })
	defer stop()
	x.request(x.m.target)
	x.req.Header = append(x.req.Header, http1.Field{Name: "connection", Value: "Upgrade"}, http1.Field{Name: "upgrade", Value: "websocket"})
	first, err := upstream.Handshake(up, &x.req, &x.resp)
	down := &frames{}
	switch {
	case !t.open(func() { down.refuse(); up.Close() }):
		x.g.cfg.Judge.Undelivered(x.s, x.id, "a later decision denied it")
		x.write(http.StatusForbidden, "not allowed", false)
		return
	case err != nil:
		x.failed(err)
		return
	}
	defer x.resp.Close()
	resp := &x.resp
	if resp.Status != http.StatusSwitchingProtocols {
		x.answer()
		return
	}
	accept, _ := resp.Header.Get("sec-websocket-accept")
	proto, _ := resp.Header.Get("upgrade")
	if accept != acceptKey(key) || !strings.EqualFold(proto, "websocket") {
		x.failed(errors.New("the backend did not accept the WebSocket handshake properly"))
		return
	}
	x.status = resp.Status
	if x.w.start(resp.Status, inbound(nil, resp.Header), 0) != nil || x.w.flush() != nil {
		x.broken("the device went away before its answer")
		return
	}
	conn, rest := x.w.hijack()
	if down.begin(conn) {
		backend := io.MultiReader(bytes.NewReader(first), up)
		relay(conn, down, bytes.Clone(rest), up, x.paced(backend, awake.Done(), x.duties.Load), x.paced(conn, awake.Done(), x.duties.Load), wake)
	}
}

// relay copies both ways until either side is done: what the backend sends and
// what the device does after rest. wake ends a wait for the device's limit.
func relay(conn net.Conn, down *frames, rest []byte, up net.Conn, backend, device io.Reader, wake func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.SetReadDeadline(past)
		defer wake()
		pass(down, backend)
	})
	wg.Go(func() {
		defer up.Close()
		to := unless{up, &down.refused}
		if _, err := to.Write(rest); err == nil {
			pass(to, device)
		}
	})
	wg.Wait()
}

const (
	// waitSize is the buffer of a direction that waits, as most of a WebSocket's life
	// is, and copySize that of one that is busy.
	waitSize = 2 << 10
	// calmReads is after how many reads in a row that would have fitted into
	// waitSize it is that again.
	calmReads = 16
)

// pass copies until either side ends.
func pass(to io.Writer, from io.Reader) {
	small := make([]byte, waitSize)
	buf, calm := small, 0
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		if calm++; n >= len(small) {
			calm = 0
		}
		switch {
		case calm == 0 && len(buf) == len(small):
			buf = make([]byte, copySize)
		case calm == calmReads:
			buf = small
		}
	}
}

// unless writes until a later decision denied what is written.
type unless struct {
	to     io.Writer
	denied *atomic.Bool
}

func (u unless) Write(p []byte) (int, error) {
	if u.denied.Load() {
		return 0, io.ErrClosedPipe
	}
	return u.to.Write(p)
}

// frames writes a backend's WebSocket frames to the device and knows where one
// ends, so that a Close frame of ours is not put into the middle of another.
type frames struct {
	conn    atomic.Pointer[net.Conn] // nil until the device was answered
	mu      sync.Mutex
	head    [14]byte
	have    int   // bytes of a head that is not whole
	left    int64 // bytes of the payload still to come
	refused atomic.Bool
	closed  bool // the Close frame was sent
}

// Write implements io.Writer.
func (f *frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refused.Load() {
		return 0, io.ErrClosedPipe
	}
	f.follow(p)
	return (*f.conn.Load()).Write(p)
}

// begin says where to write, and reports false if nothing may be written any
// more but a Close frame, which it has then sent.
func (f *frames) begin(conn net.Conn) bool {
	f.conn.Store(&conn)
	if f.refused.Load() {
		f.refuse()
		return false
	}
	return true
}

// follow keeps track of where in the frames p ends (RFC 6455 section 5.2).
func (f *frames) follow(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, int64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		f.head[f.have] = p[0]
		f.have++
		p = p[1:]
		if f.have < 2 {
			continue
		}
		size, n := 2, int64(f.head[1]&0x7f)
		switch n {
		case 126:
			size = 4
		case 127:
			size = 10
		}
		if f.head[1]&0x80 != 0 {
			size += 4
		}
		if f.have < size {
			continue
		}
		switch n {
		case 126:
			n = int64(f.head[2])<<8 | int64(f.head[3])
		case 127:
			n = 0
			for _, b := range f.head[2:10] {
				n = n<<8 | int64(b)
			}
			n &= 1<<63 - 1
		}
		f.have, f.left = 0, n
	}
}

// refuse ends the device's side with status 1008, if a frame can begin here.
func (f *frames) refuse() {
	f.refused.Store(true)
	p := f.conn.Load()
	if p == nil {
		return // begin does it
	}
	conn := *p
	// A write that is stuck must not hold this up.
	_ = conn.SetWriteDeadline(time.Now().Add(closeWait))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.have == 0 && f.left == 0 && !f.closed {
		f.closed = true
		_, _ = conn.Write(policyClose)
	}
	_ = conn.SetReadDeadline(past)
}
