// Package peers starts the real programs that Anteroom's tests speak with: a
// FHIR R4 server (Medplum's, on Node), Orthanc with its DICOMweb plugin, and
// whatever else is installed. Each is a process on loopback, on a port of its
// own, that is waited for until it answers and ended by its own process id when
// the test is over.
//
// A test begins with [Need], which skips it with a line that says what is missing
// and how to get it. With ANTEROOM_REQUIRE_PEERS=1 in the environment, as in CI,
// a missing peer fails the test instead.
//
// README.md lists what these peers do that a test must know of.
package peers
