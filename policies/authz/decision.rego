# METADATA
# title: The decision
# description: |
#   Combines what the other rules say. A transaction is allowed when at least
#   one rule allows it and none denies it. To change what is allowed, add data,
#   or a rule in a file of its own; this file stays as it is.
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - NIST 800-53 AC-3 Access enforcement
package anteroom.authz

# METADATA
# title: What the gateway reads
# description: All four fields are required, and there are no others.
# scope: document
# entrypoint: true
decision := {
	"allow": true,
	"reasons": allow,
	"denials": set(),
	"obligations": obligations,
} if {
	permitted
} else := {
	"allow": false,
	"reasons": allow,
	"denials": (deny | silence),
	"obligations": set(),
}

# METADATA
# title: A reason to allow, and none to deny
permitted if {
	deny == set()
	some _ in allow
}

# METADATA
# title: What is said when nothing allows and nothing denies
# description: |
#   Not a reason to deny: a rule in another file may still allow, and then this
#   is not said.
silence contains sentence if {
	allow == set()
	deny == set()
	sentence := trim_space(sprintf("nothing allows a device of class %q to do this: %s %s", [
		input.device.class,
		input.request.action,
		input.request.resource,
	]))
}

# METADATA
# title: Closed for everybody
# description: |
#   A list of reasons in data.closed, such as "the archive is being moved", denies
#   everything while it is there. The other files add their own reasons to deny.
deny contains reason if some reason in data.closed

# METADATA
# title: What the gateway must also do, always
# description: |
#   A list in data.obligations, such as [{"limit_rps": 100}], holds for all that is
#   allowed. The gateway denies what it would have to do and cannot.
obligations contains duty if some duty in data.obligations

# METADATA
# title: What the gateway must also do for a class
# description: |
#   A list in the class's own data, data.classes.<class>.obligations, such as
#   [{"redact": "/subject/display"}], holds for all that is allowed to its devices.
#   It adds to data.obligations: of two limits both hold.
obligations contains duty if some duty in data.classes[input.device.class].obligations
