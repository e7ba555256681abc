# Limits.
#
# What keeps a device from a certificate although it has a proof. data.enrolment
# holds them.
package anteroom.enrolment

# METADATA
# title: Only by ways that are open
deny contains sprintf("enrolment by way of %q is closed here", [input.enrolment.way]) if {
	not input.enrolment.way in data.enrolment.ways
}

# METADATA
# title: Some classes are enrolled by a person only
deny contains sprintf("devices of class %q are enrolled by an operator only", [input.device.class]) if {
	input.enrolment.proof != "operator"
	input.enrolment.renewal == false
	input.device.class in data.enrolment.attended_classes
}

# METADATA
# title: Only from the networks devices are in
deny contains "devices do not enrol from this network" if {
	input.enrolment.proof != "operator"
	some _ in data.enrolment.networks
	not from_a_device_network
}

# METADATA
# title: The request comes from one of the networks devices are in
from_a_device_network if {
	input.enrolment.remote_ip != ""
	some range in data.enrolment.networks
	net.cidr_contains(range, input.enrolment.remote_ip)
}

# METADATA
# title: RSA keys have a length that is chosen here
deny contains sprintf("an RSA key must have at least %d bits here", [data.enrolment.min_rsa_bits]) if {
	input.enrolment.csr.key.type == "rsa"
	input.enrolment.csr.key.bits < data.enrolment.min_rsa_bits
}
