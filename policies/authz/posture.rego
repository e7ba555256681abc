# Posture.
#
# How healthy a device must be. data.posture holds the limits. Devices that a
# patient's life depends on are never cut off here: a wrong deny would harm
# more than the weakness it is about. Nor does any of this bar the quarantine lane,
# where the cure is, or an emergency.
package anteroom.authz

# METADATA
# title: No device with a critical known vulnerability
# custom:
#   controls:
#     - HIPAA 164.308(a)(1)(ii)(B) Risk management
#     - NIST 800-53 RA-5 Vulnerability monitoring and scanning
#     - NIST 800-53 SI-2 Flaw remediation
deny contains "the device has a known critical vulnerability" if {
	input.device.life_critical == false
	input.device.posture.max_cvss >= data.posture.critical_cvss
	not in_lane
	not lifted("posture")
}

# METADATA
# title: No device whose health nobody has looked at for too long
# custom:
#   controls:
#     - HIPAA 164.308(a)(1)(ii)(B) Risk management
#     - NIST 800-53 RA-5 Vulnerability monitoring and scanning
#     - NIST 800-53 SI-2 Flaw remediation
deny contains "the device's last security assessment is too long ago" if {
	input.device.life_critical == false
	input.device.posture.age_days > data.posture.max_age_days
	not in_lane
	not lifted("posture")
}

# METADATA
# title: No device whose health nobody has looked at, where that is required
# custom:
#   controls:
#     - HIPAA 164.308(a)(1)(ii)(B) Risk management
#     - NIST 800-53 RA-5 Vulnerability monitoring and scanning
#     - NIST 800-53 SI-2 Flaw remediation
deny contains "the device's security was never assessed" if {
	input.device.life_critical == false
	input.device.posture.assessed == false
	data.posture.require_assessment == true
	not in_lane
	not lifted("posture")
}
