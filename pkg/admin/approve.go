package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/anteroom-iomt/anteroom/pkg/audit"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/enrol"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
)

// What becomes of a device in an approval.
const (
	Approved          = "approved"
	ApprovalUnchanged = "unchanged" // it was approved already, or was not
	ApprovalWithdrawn = "withdrawn"
	ApprovalRefused   = "refused"
)

// ApproveRequest asks for devices to be let in that come with their manufacturers'
// certificates.
type ApproveRequest struct {
	IDs []string `json:"ids"`
	// NewBoard forgets which factory key a device showed before.
	NewBoard bool `json:"new_board,omitempty"`
	// Withdraw takes approvals back that were not used.
	Withdraw bool `json:"withdraw,omitempty"`
}

func (r *ApproveRequest) about() string {
	if len(r.IDs) == 1 {
		return r.IDs[0]
	}
	return fmt.Sprintf("%d devices", len(r.IDs))
}

// An Approval is what became of one device.
type Approval struct {
	ID      string `json:"id"`
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
	// Serial and FactoryKey are what the device showed, if it has come.
	Serial     string `json:"serial,omitempty"`
	FactoryKey string `json:"factory_key,omitempty"`
}

// Approve approves devices: each is given one certificate when it comes, or comes
// again, with its manufacturer's. Asked for again it changes nothing more.
func (s *Service) Approve(ctx context.Context, a Actor, req *ApproveRequest) ([]Approval, error) {
	if len(req.IDs) > MaxImport {
		return nil, fmt.Errorf("%w list: more than %d devices at once", device.ErrInvalid, MaxImport)
	}
	var out []Approval
	for _, id := range req.IDs {
		row, err := s.approve(ctx, a, id, req)
		if err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	if err := s.cfg.State.Audit.Flush(ctx); err != nil {
		return nil, fmt.Errorf("the changes were made, but their record is not durable: %w", err)
	}
	return out, nil
}

func (s *Service) approve(ctx context.Context, a Actor, id string, req *ApproveRequest) (Approval, error) {
	row := Approval{ID: id, Outcome: ApprovalRefused}
	rec, err := s.approvable(id, req.Withdraw)
	if err != nil {
		row.Error = err.Error()
		return row, nil
	}
	event, changed := "device.approved", false
	var n *enrol.Newcomer
	if req.Withdraw {
		event, row.Outcome, n = "device.disapproved", ApprovalWithdrawn, &enrol.Newcomer{}
		changed, err = s.cfg.State.Newcomers.Withdraw(ctx, id)
	} else {
		row.Outcome = Approved
		n, changed, err = s.cfg.State.Newcomers.Approve(ctx, rec, a.Name, req.NewBoard)
	}
	if err != nil {
		return row, err
	}
	if err := s.revokedSince(rec); err != nil && !req.Withdraw {
		if _, err := s.cfg.State.Newcomers.Withdraw(ctx, id); err != nil {
			return row, err
		}
		return Approval{ID: id, Outcome: ApprovalRefused, Error: err.Error()}, nil
	}
	row.Serial, row.FactoryKey = n.Serial, n.FactoryKey
	if !changed {
		row.Outcome = ApprovalUnchanged
		return row, nil
	}
	r := &audit.Record{Kind: audit.KindDevice, Event: event, Operator: a.Name, Device: rec.ID, Class: rec.Class, DeviceStatus: string(rec.Status),
		Detail: []protocol.Field{{Name: "factory_key", Value: protocol.String(n.FactoryKey)}, {Name: "new_board", Value: protocol.Bool(req.NewBoard)}}}
	if err := s.cfg.State.Audit.Append(ctx, r); err != nil {
		return row, fmt.Errorf("the change was made, but its record is not durable: %w", err)
	}
	return row, nil
}

// approvable returns the record of a device that may be approved.
func (s *Service) approvable(id string, withdraw bool) (*device.Record, error) {
	if err := device.ValidID(id); err != nil {
		return nil, err
	}
	rec, ok := s.cfg.State.Devices.Get(id)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: %w", id, device.ErrNotFound)
	case withdraw:
	case rec.Status != device.Pending && rec.Status != device.Active:
		return nil, fmt.Errorf("%s is %s, and is given no certificate", id, rec.Status)
	case rec.Manufacturer == "" || rec.Serial == "":
		return nil, errors.New(id + ": the registry does not have its manufacturer and serial number, by which its certificate is known")
	}
	return rec, nil
}

// revokedSince reports that a device was revoked after its record was looked at.
// Who revokes it takes back what there is then; what was made at the same moment,
// its maker does.
func (s *Service) revokedSince(rec *device.Record) error {
	if now, ok := s.cfg.State.Devices.Get(rec.ID); ok && !now.RevokedAt.Equal(rec.RevokedAt) {
		return fmt.Errorf("%s: %w: it was revoked in the meantime", rec.ID, device.ErrTransition)
	}
	return nil
}

// Waiting lists the devices that wait for approval, and those that were approved
// and have not come for their certificate.
func (s *Service) Waiting(ctx context.Context, _ Actor, _ *struct{}) ([]enrol.Newcomer, error) {
	return s.cfg.State.Newcomers.List(ctx)
}
