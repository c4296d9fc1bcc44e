"""What nvme-cli prints.

Recorded, unchanged: nvme-cli 2.3 (libnvme 1.3, Debian 12) against Linux 6.18's nvmet over TCP, and for SMART against a
drive that QEMU emulates. By hand, from the sources of nvme-cli (``nvme-print-json.c``) and not seen printed: everything
whose name begins with LATER. No nvme-cli later than 2.3 was run.
"""

CONTROLLER = """\
{
  "vid":0,
  "ssvid":0,
  "sn":"31bda7049ad2311d3cdb",
  "mn":"Linux                                   ",
  "fr":"6.18.15+",
  "rab":6,
  "ieee":0,
  "cmic":11,
  "mdts":0,
  "cntlid":1,
  "ver":131328,
  "rtd3r":0,
  "rtd3e":0,
  "oaes":2304,
  "ctratt":65,
  "rrls":0,
  "cntrltype":1,
  "fguid":"00000000-0000-0000-0000-000000000000",
  "crdt1":0,
  "crdt2":0,
  "crdt3":0,
  "nvmsr":0,
  "vwci":0,
  "mec":0,
  "oacs":0,
  "acl":3,
  "aerl":3,
  "frmw":3,
  "lpa":7,
  "elpe":127,
  "npss":0,
  "avscc":0,
  "apsta":0,
  "wctemp":0,
  "cctemp":0,
  "mtfa":0,
  "hmpre":0,
  "hmmin":0,
  "tnvmcap":"0",
  "unvmcap":"0",
  "rpmbs":0,
  "edstt":0,
  "dsto":0,
  "fwug":0,
  "kas":10,
  "hctma":0,
  "mntmt":0,
  "mxtmt":0,
  "sanicap":0,
  "hmminds":0,
  "hmmaxd":0,
  "nsetidmax":0,
  "endgidmax":1024,
  "anatt":10,
  "anacap":31,
  "anagrpmax":128,
  "nanagrpid":128,
  "pels":0,
  "domainid":0,
  "megcap":"0",
  "sqes":102,
  "cqes":68,
  "maxcmd":1024,
  "nn":1024,
  "oncs":44,
  "fuses":0,
  "fna":0,
  "vwc":1,
  "awun":0,
  "awupf":0,
  "icsvscc":0,
  "nwpc":1,
  "acwu":0,
  "ocfs":0,
  "sgls":1048577,
  "mnan":1024,
  "maxdna":"0",
  "maxcna":0,
  "subnqn":"nqn.2026-11.test:rec",
  "ioccsz":1028,
  "iorcsz":1,
  "icdoff":0,
  "fcatt":0,
  "msdbd":1,
  "ofcs":0,
  "psds":[
    {
      "max_power":2500,
      "flags":0,
      "entry_lat":16,
      "exit_lat":4,
      "read_tput":0,
      "read_lat":0,
      "write_tput":0,
      "write_lat":0,
      "idle_power":0,
      "idle_scale":0,
      "active_power":0,
      "active_power_work":0,
      "active_scale":0
    }
  ]
}
"""

NAMESPACE = """\
{
  "nsze":131072,
  "ncap":131072,
  "nuse":131072,
  "nsfeat":18,
  "nlbaf":0,
  "flbas":0,
  "mc":0,
  "dpc":0,
  "dps":0,
  "nmic":1,
  "rescap":254,
  "fpi":0,
  "dlfeat":0,
  "nawun":0,
  "nawupf":0,
  "nacwu":0,
  "nabsn":0,
  "nabo":0,
  "nabspf":0,
  "noiob":0,
  "nvmcap":"0",
  "nsattr":0,
  "nvmsetid":0,
  "npwg":0,
  "npwa":0,
  "npdg":0,
  "npda":0,
  "nows":0,
  "mssrl":0,
  "mcl":0,
  "msrc":0,
  "nulbaf":0,
  "anagrpid":1,
  "endgid":1,
  "eui64":"0000000000000000",
  "nguid":"00000000000000000000000000000000",
  "lbafs":[
    {
      "ms":0,
      "ds":9,
      "rp":0
    }
  ]
}
"""

SMART_OF_A_DRIVE = """\
{
  "critical_warning":0,
  "temperature":323,
  "avail_spare":0,
  "spare_thresh":0,
  "percent_used":0,
  "endurance_grp_critical_warning_summary":0,
  "data_units_read":"1",
  "data_units_written":"0",
  "host_read_commands":"6",
  "host_write_commands":"0",
  "controller_busy_time":"0",
  "power_cycles":"0",
  "power_on_hours":"0",
  "unsafe_shutdowns":"0",
  "media_errors":"0",
  "num_err_log_entries":"0",
  "warning_temp_time":0,
  "critical_comp_time":0,
  "thm_temp1_trans_count":0,
  "thm_temp2_trans_count":0,
  "thm_temp1_total_time":0,
  "thm_temp2_total_time":0
}
"""

RESERVATIONS = """\
{
  "gen":1,
  "rtype":1,
  "regctl":1,
  "ptpls":0,
  "regctlext":[
    {
      "cntlid":65535,
      "rcsts":1,
      "rkey":2748,
      "hostid":"11111111222233334444555555555555"
    }
  ]
}
"""

# standard error
NO_DEVICE = "/dev/nvme1n1: No such file or directory\n\x1b[1mUsage: nvme id-ns <device> [OPTIONS]\x1b[0m\n"
NO_NVME = "get-namespace-id: Inappropriate ioctl for device\n"
NO_RESERVATIONS = (
    "NVMe status: Invalid Command Opcode: A reserved coded value or an unsupported value in the command opcode "
    "field(0x4001)\n"
)

# some versions after 2.3: the host identifier has another name
LATER_RESERVATIONS = """\
{"gen":3,"rtype":5,"regctl":2,"ptpls":1,"regctlext":[
{"cntlid":1,"rcsts":1,"rkey":10,"Host ID":"11111111222233334444555555555555"},
{"cntlid":65535,"rcsts":0,"rkey":18446744073709551615,"Host ID":"AAAAAAAA222233334444555555555555"}]}
"""
# without --eds: 64-bit identifiers
LATER_RESERVATIONS_SHORT = (
    '{"gen":1,"rtype":0,"regctl":1,"ptpls":0,"regctls":[{"cntlid":1,"rcsts":0,"hostid":255,"rkey":1}]}'
)
# built without json-c, or with --verbose: numbers are numbers, the warning an object
LATER_SMART = """\
{"critical_warning":{"value":5,"available_spare":1,"temp_threshold":0,"reliability_degraded":1,"ro":0,"vmbu_failed":0,
"pmr_ro":0},"temperature":310,"avail_spare":9,"spare_thresh":10,"percent_used":101,
"endurance_grp_critical_warning_summary":0,"data_units_read":18446744073709551616,"data_units_written":7,
"host_read_commands":1,"host_write_commands":2,"controller_busy_time":3,"power_cycles":4,"power_on_hours":5,
"unsafe_shutdowns":6,"media_errors":8,"num_err_log_entries":9,"warning_temp_time":0,"critical_comp_time":0,
"temperature_sensor_1":310,"thm_temp1_trans_count":0,"thm_temp2_trans_count":0,"thm_temp1_total_time":0,
"thm_temp2_total_time":0}
"""
LATER_ERROR = '{"error":"identify controller: Permission denied"}'
