package acme

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// Tables of the store: accounts by id; the id of the account by its key's
// thumbprint, and by the device whose one account it is; orders by account and id.
const (
	accountTable = "acme-accounts"
	keyTable     = "acme-account-of-key"
	deviceTable  = "acme-account-of-device"
	orderTable   = "acme-orders"
)

const (
	// orderLife is how long an order has to be finished.
	orderLife = time.Hour
	// orderKept is how long an order is there after it was made.
	orderKept = 24 * time.Hour
	// mostOrders bounds the orders of one account. The oldest that is over makes
	// room for a new one.
	mostOrders = 32
)

// An account is one that was opened for a device.
type account struct {
	ID     string          `json:"id"`
	Device string          `json:"device"`
	Opened time.Time       `json:"opened"`
	Again  bool            `json:"again,omitempty"`
	Key    json.RawMessage `json:"key"` // JWK
	Thumb  string          `json:"thumb"`
}

// newID returns a name that is not given twice and can not be guessed: 130 bits.
func newID() string {
	var b [17]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:])[:idLen])
}

const idLen = 26

func validID(id string) bool {
	return len(id) == idLen && strings.IndexFunc(id, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '2' || c > '7') }) < 0
}

func load[T any](r store.Reader, table, key string) (*T, error) {
	b, err := r.Get(table, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("%s: %w", table, err)
	}
	return out, nil
}

func save(w store.Writer, table, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.Put(table, key, b)
}

// keep writes a new account down. The device's former one ends.
func (a *account) keep(w store.Writer) error {
	former, err := w.Get(deviceTable, a.Device)
	if err == nil {
		err = end(w, string(former))
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if other, err := w.Get(keyTable, a.Thumb); !errors.Is(err, store.ErrNotFound) {
		return cmp.Or(err, fmt.Errorf("the key is that of account %s", other))
	}
	if err := save(w, accountTable, a.ID, a); err != nil {
		return err
	}
	return errors.Join(w.Put(keyTable, a.Thumb, []byte(a.ID)), w.Put(deviceTable, a.Device, []byte(a.ID)))
}

// rekey gives an account that is still there, and has the key it had, another one.
func (a *account) rekey(w store.Writer, next *jwk) error {
	now, err := load[account](w, accountTable, a.ID)
	if err != nil || now == nil || now.Thumb != a.Thumb {
		return cmp.Or(err, errors.New("the account has ended, or has another key"))
	}
	if _, err := w.Get(keyTable, next.thumbprint()); !errors.Is(err, store.ErrNotFound) {
		return cmp.Or(err, errors.New("the new key is an account's already"))
	}
	if err := w.Delete(keyTable, a.Thumb); err != nil {
		return err
	}
	now.Key, now.Thumb = next.canon, next.thumbprint()
	return errors.Join(save(w, accountTable, now.ID, now), w.Put(keyTable, now.Thumb, []byte(now.ID)))
}

// end removes an account and its orders.
func end(w store.Writer, id string) error {
	a, err := load[account](w, accountTable, id)
	if err != nil || a == nil {
		return err
	}
	var orders []string
	if err := w.Each(orderTable, id+"/", func(key string, _ []byte) error { orders = append(orders, key); return nil }); err != nil {
		return err
	}
	for _, key := range orders {
		if err := w.Delete(orderTable, key); err != nil {
			return err
		}
	}
	return errors.Join(w.Delete(accountTable, id), w.Delete(keyTable, a.Thumb), w.Delete(deviceTable, a.Device))
}

// accountOf returns the account with an id, or nil.
func (s *server) accountOf(ctx context.Context, id string) (a *account, err error) {
	err = s.store.View(ctx, func(r store.Reader) error { a, err = load[account](r, accountTable, id); return err })
	return a, err
}

// accountByKey returns the account with a key, or nil.
func (s *server) accountByKey(ctx context.Context, thumb string) (a *account, err error) {
	err = s.store.View(ctx, func(r store.Reader) error {
		id, err := r.Get(keyTable, thumb)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			a, err = load[account](r, accountTable, string(id))
		}
		return err
	})
	return a, err
}

// orderOf returns an order of an account, or nil: nobody sees another's.
func (s *server) orderOf(ctx context.Context, accountID, id string) (o *order, err error) {
	if !validID(id) {
		return nil, nil
	}
	err = s.store.View(ctx, func(r store.Reader) error { o, err = load[order](r, orderTable, accountID+"/"+id); return err })
	return o, err
}

func (s *server) ordersOf(ctx context.Context, accountID string) (list []*order, err error) {
	err = s.store.View(ctx, func(r store.Reader) error { list, err = orders(r, accountID); return err })
	return list, err
}

// orders returns an account's orders, the oldest first.
func orders(r store.Reader, accountID string) (list []*order, err error) {
	err = r.Each(orderTable, accountID+"/", func(_ string, value []byte) error {
		o := new(order)
		list = append(list, o)
		return json.Unmarshal(value, o)
	})
	slices.SortFunc(list, func(a, b *order) int { return a.Created.Compare(b.Created) })
	return list, err
}

var errManyOrders = errors.New("the account has as many orders under way as it may")

// add writes a new order down, and makes room for it.
func (o *order) add(w store.Writer, now time.Time) error {
	if a, err := load[account](w, accountTable, o.Account); err != nil || a == nil {
		return cmp.Or(err, errors.New("the account has ended"))
	}
	list, err := orders(w, o.Account)
	if err != nil {
		return err
	}
	left := len(list)
	for _, old := range list {
		status := old.status(now)
		over := status == invalid || status == valid
		if now.Sub(old.Created) < orderKept && (!over || left < mostOrders) {
			continue
		}
		if err := w.Delete(orderTable, old.key()); err != nil {
			return err
		}
		left--
	}
	if left >= mostOrders {
		return errManyOrders
	}
	return o.save(w)
}

func (o *order) key() string { return o.Account + "/" + o.ID }

func (o *order) save(w store.Writer) error { return save(w, orderTable, o.key(), o) }

// change writes down what became of an order. If it ended meanwhile, with its
// account, nothing is written.
func (s *server) change(ctx context.Context, o *order) error {
	return s.store.Update(context.WithoutCancel(ctx), o.change)
}

// change writes an order down that is still there.
func (o *order) change(w store.Writer) error {
	if now, err := load[order](w, orderTable, o.key()); err != nil || now == nil {
		return cmp.Or(err, errors.New("the order has ended"))
	}
	return o.save(w)
}
