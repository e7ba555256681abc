package integration

import (
	"os"
	"testing"

	"github.com/anteroom-iomt/anteroom/integration/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
