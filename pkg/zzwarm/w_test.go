package zzwarm

import (
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "go.uber.org/goleak"
)
