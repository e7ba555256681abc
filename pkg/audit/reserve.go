package audit

import "time"

const (
	// reserveKept is the part of MinFree that not even records marked Reserve get:
	// others, such as the registry, need to write too.
	reserveKept = 2
	// shareRate is how many bytes of the reserve one device may use in a second: some
	// two records, where a monitor tells an alarm once and repeats it every few
	// seconds. One that is beside itself takes two hours for half of the default
	// min_free.
	shareRate = 4 << 10
	// shareBurst is how much of its share a device may use at once after a rest: an
	// alarm, a Bundle or two.
	shareBurst = 16 * time.Second
)

// onDisk is about what a record of a size in the buffer takes of the disk, as a line,
// with its part of seals and of the transparency log. What is free is looked at anew
// every second.
func onDisk(size int) int64 { return 4 * int64(size) }

// shareOf is how long a device's share needs to pay for a record.
func shareOf(size int) time.Duration {
	return time.Duration(onDisk(size)) * time.Second / shareRate
}

// takes reports whether there is room in the reserve for a device's record, and
// whether its share has any left.
func (o *outage) takes(device string, size int, now time.Time) bool {
	if o.stuck || device == "" || o.room < onDisk(size) {
		return false
	}
	return o.owed(device, now)+shareOf(size) <= shareBurst
}

// charge takes a record into account that takes was asked about.
func (o *outage) charge(device string, size int, now time.Time) {
	if o.paid == nil {
		o.paid = map[string]time.Time{}
	}
	o.paid[device] = now.Add(o.owed(device, now) + shareOf(size))
	o.room -= onDisk(size)
}

// owed is how long it takes until a device has paid for what it put into the reserve.
// A clock that was set back does not make that longer.
func (o *outage) owed(device string, now time.Time) time.Duration {
	owed := max(0, o.paid[device].Sub(now))
	if owed > shareBurst {
		owed = shareBurst
		o.paid[device] = now.Add(owed)
	}
	return owed
}
