package main

import (
	"context"
	"errors"
)

// anteroom is the gateway of this tree.
type anteroom struct{ path string }

func (a *anteroom) name() string { return "anteroom" }

func (a *anteroom) prepare(ctx context.Context, r *rig) (string, error) {
	return "", errors.New("n/a")
}

func (a *anteroom) start(ctx context.Context, r *rig) (*running, error) { return nil, nil }
