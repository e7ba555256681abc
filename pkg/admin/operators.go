package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/anteroom-iomt/anteroom/pkg/ca"
	"github.com/anteroom-iomt/anteroom/pkg/device"
	"github.com/anteroom-iomt/anteroom/pkg/protocol"
	"github.com/anteroom-iomt/anteroom/pkg/store"
)

// operatorTable is the operators' table in the store.
const operatorTable = "operators"

// AddOperator makes an operator and issues the operator's certificate.
func (s *Service) AddOperator(ctx context.Context, a Actor, req *OperatorRequest) (*Issued, error) {
	if err := device.ValidID(req.Name); err != nil {
		return nil, err
	}
	if len(req.Roles) == 0 {
		return nil, fmt.Errorf("%w operator %s: at least one role is needed", device.ErrInvalid, req.Name)
	}
	for _, r := range req.Roles {
		if !slices.Contains(AllRoles, r) {
			return nil, fmt.Errorf("%w role %q", device.ErrInvalid, r)
		}
	}
	ttl, err := s.registrar.Lifetime(req.TTL, "")
	if err != nil {
		return nil, err
	}
	csr, err := ca.ParseCSR(req.CSR)
	if err != nil {
		return nil, fmt.Errorf("%w signing request: %w", device.ErrInvalid, err)
	}
	iss, err := s.cfg.State.CA.Issue(ctx, ca.Request{Profile: ca.Operator, ID: req.Name, CSR: csr, TTL: ttl})
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for operator %s: %w", req.Name, err)
	}
	sum := sha256.Sum256(iss.Leaf.Raw)
	c := Operator{Name: req.Name, Roles: req.Roles, Serial: iss.Leaf.SerialNumber.String(), Fingerprint: hex.EncodeToString(sum[:]), NotAfter: iss.Leaf.NotAfter.UTC()}
	value, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	err = s.cfg.State.Store.Update(ctx, func(w store.Writer) error {
		if _, err := w.Get(operatorTable, req.Name); err == nil {
			return fmt.Errorf("operator %s: %w", req.Name, device.ErrExists)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return w.Put(operatorTable, req.Name, value)
	})
	if err != nil {
		return nil, err
	}
	out := &Issued{ChainPEM: iss.ChainPEM, RootsPEM: s.cfg.State.CA.RootsPEM(), Serial: c.Serial, NotAfter: c.NotAfter, CutShort: iss.CutShort}
	return out, s.commit(ctx, a, "operator.added", nil,
		protocol.Field{Name: "operator", Value: protocol.String(req.Name)}, protocol.Field{Name: "roles", Value: roleList(req.Roles)})
}

func roleList(roles []Role) protocol.Value {
	var out []string
	for _, r := range roles {
		out = append(out, string(r))
	}
	return protocol.Strings(out...)
}

// Operators returns the operators in order of name.
func (s *Service) Operators(ctx context.Context, _ Actor, _ *struct{}) ([]Operator, error) {
	var out []Operator
	err := s.cfg.State.Store.View(ctx, func(r store.Reader) error {
		return r.Each(operatorTable, "", func(name string, value []byte) error {
			var o Operator
			if err := json.Unmarshal(value, &o); err != nil {
				return fmt.Errorf("record of operator %s: %w", name, err)
			}
			out = append(out, o)
			return nil
		})
	})
	return out, err
}

// RevokeOperator withdraws an operator's certificate and roles.
func (s *Service) RevokeOperator(ctx context.Context, a Actor, req *Name) (*Operator, error) {
	var o Operator
	err := s.cfg.State.Store.Update(ctx, func(w store.Writer) error {
		value, err := w.Get(operatorTable, req.ID)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("operator %s: %w", req.ID, device.ErrNotFound)
		}
		if err != nil {
			return err
		}
		if err := json.Unmarshal(value, &o); err != nil {
			return fmt.Errorf("record of operator %s: %w", req.ID, err)
		}
		if o.RevokedAt.IsZero() {
			o.RevokedAt, o.Roles = s.cfg.Clock().UTC(), nil
		}
		if value, err = json.Marshal(o); err != nil {
			return err
		}
		return w.Put(operatorTable, req.ID, value)
	})
	if err != nil {
		return nil, err
	}
	if err := s.cfg.State.CA.Revoke(ctx, o.Serial, "operator revoked"); err != nil && !errors.Is(err, ca.ErrUnknownSerial) {
		return nil, fmt.Errorf("operator %s has no roles any more, but the CA does not know it: %w; run the command again", o.Name, err)
	}
	return &o, s.commit(ctx, a, "operator.revoked", nil, protocol.Field{Name: "operator", Value: protocol.String(o.Name)})
}
