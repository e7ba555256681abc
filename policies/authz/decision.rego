# METADATA
# title: The decision
# description: |
#   Combines what the other rules say. A transaction is allowed when at least
#   one rule allows it and none denies it. Nothing else belongs in this file: to
#   change what is allowed, add a rule to a file of its own, or data.
# custom:
#   controls:
#     - HIPAA 164.312(a)(1) Access control
#     - NIST 800-53 AC-3 Access enforcement
package anteroom.authz

# METADATA
# title: Allow only on a reason, and against no reason to deny
# description: Read by the gateway. Every field is required.
# entrypoint: true
decision := {
	"allow": permitted,
	"reasons": allow,
	"denials": deny,
	"obligations": obligations,
}

default permitted := false

permitted if {
	count(allow) > 0
	count(deny) == 0
}

# METADATA
# title: Reasons to deny
# description: |
#   Other files add to this set. This rule adds nothing; it names the set, so
#   that the decision is complete without any that does.
# scope: document
deny contains reason if some reason in []

# METADATA
# title: What the gateway must also do
# description: As for deny, other files add to this set and this rule adds nothing.
# scope: document
obligations contains duty if some duty in []
