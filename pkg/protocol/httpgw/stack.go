package httpgw

// stackNeeded is about as much stack as a request takes to be decided and forwarded.
const stackNeeded = 12 << 10

// growStack has the goroutine's stack grow at once to what a request takes. Left to
// itself it does so in steps, each of which copies all frames there are by then: a
// tenth of what a request of HTTP/2 cost, each of which has a goroutine of its own.
//
//go:noinline
func growStack(at int) byte {
	var room [stackNeeded]byte
	room[at] = 1
	return room[stackNeeded-1-at]
}
