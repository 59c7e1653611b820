package rig

import "testing"

// Long skips a test that takes more than ten seconds where go test was asked for
// short ones: -short leaves a few tests of each kind with real MTAs, enough to
// see that a machine has what they need.
func Long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long: left out with -short")
	}
}
