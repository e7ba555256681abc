# METADATA
# title: Who may be given a certificate
# description: |
#   Combines what the other rules say, as the decision on transactions does: at
#   least one reason to allow, and none to deny. The gateway asks this of every
#   certificate it is about to issue to a device, after its own checks.
# scope: package
# schemas:
#   - input: schema.enrolment.input
# custom:
#   controls:
#     - HIPAA 164.312(d) Person or entity authentication
#     - NIST 800-53 IA-3 Device identification and authentication
package anteroom.enrolment

# METADATA
# title: What the gateway reads
# description: All three fields are required, and there are no others.
# scope: document
# entrypoint: true
decision := {
	"allow": true,
	"reasons": allow,
	"denials": set(),
} if {
	permitted
} else := {
	"allow": false,
	"reasons": allow,
	"denials": (deny | silence),
}

# METADATA
# title: A reason to allow, and none to deny
permitted if {
	deny == set()
	some _ in allow
}

# METADATA
# title: What is said when nothing allows and nothing denies
silence contains sentence if {
	allow == set()
	deny == set()
	sentence := sprintf("nothing allows a device to be enrolled by way of %q with the proof %q", [
		input.enrolment.way,
		input.enrolment.proof,
	])
}

# METADATA
# title: An operator enrols and renews devices
allow contains "an operator asks for it" if input.enrolment.proof == "operator"

# METADATA
# title: A device enrols with a token that an operator made for it
allow contains "the device shows a one-time token that was made for it" if input.enrolment.proof == "token"

# METADATA
# title: A device enrols with its manufacturer's certificate once an operator has approved it
# description: Until then it waits, if approval is all that is missing.
allow contains "its manufacturer vouches for the device, and an operator approved it" if {
	input.enrolment.proof == "manufacturer"
	input.enrolment.approved == true
}

# METADATA
# title: Devices of some classes enrol with their manufacturer's certificate at once
# description: |
#   data.enrolment.automatic_classes names them. The device is in the registry, with
#   the manufacturer and the serial number that its certificate says.
allow contains sprintf("its manufacturer vouches for the device, and class %q needs no approval here", [input.device.class]) if {
	input.enrolment.proof == "manufacturer"
	input.device.class in data.enrolment.automatic_classes
}

# METADATA
# title: A device renews with its certificate
allow contains "the device shows its certificate in force" if {
	input.enrolment.proof == "certificate"
	input.enrolment.renewal == true
}

# METADATA
# title: A server beside the gateway gets a certificate for names that it answers to
# description: |
#   It has an ACME account that was opened with a one-time token, the
#   configuration lists the names, and the certificate says no device's identity.
allow contains "the server answers to the names it may have" if {
	input.enrolment.proof == "account"
	some _ in input.enrolment.names
}

# METADATA
# title: A device enrols and renews with a key that its hardware attests
allow contains "the device's hardware attests the key" if input.enrolment.proof == "attestation"

# METADATA
# title: A device that lay on a shelf renews with the certificate that ended meanwhile
# description: |
#   The gateway lets it ask within the grace of its class (enrolment.class_grace)
#   and with its latest certificate only.
allow contains "the device shows its latest certificate, within the grace after its end" if {
	input.enrolment.proof == "expired-certificate"
	input.enrolment.renewal == true
}
