package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
)

// MaxImport is how many devices one call registers: the work of a moment, and
// what is lost of it if the process is killed.
const MaxImport = 500

// What becomes of a device in an import.
const (
	ImportRegistered = "registered" // or would be
	ImportUnchanged  = "unchanged"  // it is in the registry, as the import says
	ImportRefused    = "refused"
)

// ImportRequest asks for devices to be registered, as pending.
type ImportRequest struct {
	Devices []device.Record `json:"devices"` // ids, classes and descriptive fields; the others are ignored
}

// An Imported is what became of one device.
type Imported struct {
	ID      string `json:"id"`
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
	Warning string `json:"warning,omitempty"`
}

// Import registers devices that are not in the registry: the good ones in one
// durable step, the others with the reason why not. Asked for again it changes
// nothing more.
func (s *Service) Import(ctx context.Context, a Actor, req *ImportRequest) ([]Imported, error) {
	out, fresh, err := s.sift(req)
	if err != nil || len(fresh) == 0 {
		return out, err
	}
	recs, err := s.cfg.State.Devices.Register(ctx, fresh)
	if err != nil {
		return nil, err
	}
	for _, rec := range recs {
		r := &audit.Record{Kind: audit.KindDevice, Event: "device.registered", Operator: a.Name, Device: rec.ID, Class: rec.Class, DeviceStatus: string(rec.Status)}
		if err = errors.Join(err, s.cfg.State.Audit.Append(ctx, r)); err != nil {
			break
		}
	}
	if err = errors.Join(err, s.cfg.State.Audit.Flush(ctx)); err != nil {
		return nil, fmt.Errorf("the devices were registered, but the record of it is not durable: %w", err)
	}
	return out, nil
}

// CheckImport says what Import would do.
func (s *Service) CheckImport(_ context.Context, _ Actor, req *ImportRequest) ([]Imported, error) {
	out, _, err := s.sift(req)
	return out, err
}

// sift tells what is to be registered from what is there and what is no device.
func (s *Service) sift(req *ImportRequest) (out []Imported, fresh []*device.Record, err error) {
	if len(req.Devices) > MaxImport {
		return nil, nil, fmt.Errorf("%w import: more than %d devices at once", device.ErrInvalid, MaxImport)
	}
	seen := map[string]bool{}
	for i := range req.Devices {
		rec := facts(&req.Devices[i])
		row := Imported{ID: rec.ID, Outcome: ImportRefused}
		have, exists := s.cfg.State.Devices.Get(rec.ID)
		switch err := rec.Valid(); {
		case err != nil:
			row.Error = err.Error()
		case seen[rec.ID]:
			row.Error = "the id is there twice"
		case exists && sameFacts(have, rec):
			row.Outcome = ImportUnchanged
		case exists:
			row.Error = "the registry has a device of this id that differs: " + difference(have, rec)
		default:
			row.Outcome = ImportRegistered
			fresh = append(fresh, rec)
			if w := s.unknownClass(rec.Class); len(w) > 0 {
				row.Warning = w[0]
			}
		}
		seen[rec.ID] = true
		out = append(out, row)
	}
	return out, fresh, nil
}

func sameFacts(a, b *device.Record) bool { return difference(a, b) == "" }

// difference names the first descriptive field in which two records differ.
func difference(a, b *device.Record) string {
	for _, f := range [...]struct{ name, a, b string }{
		{"class", a.Class, b.Class}, {"manufacturer", a.Manufacturer, b.Manufacturer}, {"model", a.Model, b.Model}, {"serial", a.Serial, b.Serial},
		{"udi", a.UDI, b.UDI}, {"location", a.Location, b.Location}, {"owner", a.Owner, b.Owner},
	} {
		if f.a != f.b {
			return fmt.Sprintf("its %s is %q there and %q here", f.name, f.a, f.b)
		}
	}
	switch {
	case a.LifeCritical != b.LifeCritical:
		return "one is life-critical, the other not"
	case !maps.Equal(a.Tags, b.Tags):
		return "its tags"
	}
	return ""
}
