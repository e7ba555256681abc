package audit

import (
	"maps"
	"time"
)

const (
	// reserveKept is the part of MinFree that not even records marked Reserve get:
	// others, such as the registry, need to write too.
	reserveKept = 2
	// followKept is the part of MinFree below that which is kept for records that
	// follow up what went on.
	followKept = 8
	// shareRate is how many bytes of the reserve one device may use in a second: a
	// record, where a monitor tells an alarm once and repeats it every few seconds. One
	// that is beside itself takes two hours for half of the default min_free.
	shareRate = 4 << 10
	// shareBurst is how much of its share a device may use at once after a rest: an
	// alarm, a Bundle or two.
	shareBurst = 16 * time.Second
)

const (
	// lineFrame is the most that a line has around what is its record's: number, run
	// and line break.
	lineFrame = len(`{"seq":`) + 20 + len(`,"run":"`) + 16 + len(`"}`+"\n")
	// pseudonymMost is how long a pseudonym is, with quotation marks and a comma.
	pseudonymMost = len(pseudonymPrefix) + 2*pseudonymBytes + 3
	// sealPart is what a record takes beside its line if it has a block to itself: its
	// seal, which lies in the transparency log as well.
	sealPart = 768
	// followUp is the most that a record takes which follows up another one.
	followUp = 1536
	// mostTimes is how many times as long as in the buffer a record can be on disk: an
	// identifier of no letter lies there in two bytes.
	mostTimes = 20
	// maxFollowUps bounds how many records may be followed up: those of some minutes,
	// where a backend answers in one or not at all.
	maxFollowUps = 4096
)

// costMost is the most of the disk that a record takes, of a length in the buffer.
func costMost(size int) int64 { return mostTimes*int64(size) + int64(lineFrame) + sealPart }

// cost is what a record takes of the disk, from its tokens and never too little. It
// looks no further than a share reaches.
func (l *Log) cost(t []byte) int64 {
	const most = int64(shareBurst/time.Second) * shareRate
	cost, worst := int64(lineFrame)+sealPart, costMost(len(t))
	if int64(len(t)) > most {
		return worst
	}
	e, b := newEncoder("", nil), []byte{'"'} // behind which everything needs a comma
	for len(t) > 0 {
		n := tokenLen(t)
		if n <= 0 || cost > most {
			return worst
		}
		if op(t[0]) == opSecret && l.cfg.Audit.Identifiers != "clear" {
			cost += int64(pseudonymMost)
		} else {
			line, err := e.members(b[:1], t[:n])
			if err != nil {
				return worst
			}
			cost, b = cost+int64(len(line)-1), line
		}
		t = t[n:]
	}
	return cost
}

// price is what a record marked Reserve is charged with: one that is not a part of
// another pays for what may follow it up.
func price(r *Record, cost int64) int64 {
	if tx := r.Transaction; tx != nil && tx.Of != "" {
		return cost
	}
	return cost + followUp
}

// shareOf is how long a device's share needs to pay a price.
func shareOf(price int64) time.Duration { return time.Duration(price) * time.Second / shareRate }

// shares are until when each device pays for what it put into the reserve.
type shares map[string]time.Time

// owed is how long it takes until a device has paid. A clock that was set back does
// not make that longer.
func (s shares) owed(device string, now time.Time) time.Duration {
	owed := max(0, s[device].Sub(now))
	if owed > shareBurst {
		owed = shareBurst
		s[device] = now.Add(owed)
	}
	return owed
}

// forget forgets who owes nothing.
func (s shares) forget(now time.Time) {
	maps.DeleteFunc(s, func(device string, _ time.Time) bool { return s.owed(device, now) == 0 })
}

// A trail is the last decisions that went on with a record in the reserve. Each of
// them has paid for one more record.
type trail struct {
	ids  map[string]struct{}
	last []string // in a ring
	at   int
}

func newTrail(n int64) trail {
	return trail{map[string]struct{}{}, make([]string, min(n, maxFollowUps)), 0}
}

func (t *trail) add(id string) {
	if len(t.last) == 0 || id == "" {
		return
	}
	delete(t.ids, t.last[t.at])
	t.ids[id], t.last[t.at] = struct{}{}, id
	t.at = (t.at + 1) % len(t.last)
}

// takes reports whether a record is taken with nearly no disk left. The caller holds
// mu.
func (l *Log) takes(r *Record, cost int64, now time.Time) bool {
	o := l.down
	switch {
	case o.stuck || r.Device == "":
	case r.FollowsUp && r.Decision != nil:
		_, paid := l.passed.ids[r.Decision.ID]
		return paid && cost <= min(o.room, followUp)
	case r.Reserve:
		return cost <= o.room-o.late && l.shares.owed(r.Device, now)+shareOf(price(r, cost)) <= shareBurst
	}
	return false
}

// charge takes a record into account that takes was asked about.
func (l *Log) charge(r *Record, cost int64, now time.Time) {
	l.down.room -= cost
	if r.FollowsUp {
		delete(l.passed.ids, r.Decision.ID)
		return
	}
	p := price(r, cost)
	l.shares[r.Device] = now.Add(l.shares.owed(r.Device, now) + shareOf(p))
	if p > cost && r.Decision != nil {
		l.passed.add(r.Decision.ID)
	}
}
