//! The kernel struct fields the programs read. The agent finds their offsets in the running kernel's BTF at load and
//! sets each as a `.rodata` global of the same name, which the verifier then sees as a constant.

/// A field of a kernel struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelField {
    /// Name of the global in the eBPF object.
    pub global: &'static str,
    /// Struct, as BTF names it.
    pub container: &'static str,
    /// Member path inside it, `.`-separated; anonymous structs and unions are looked through.
    pub member: &'static str,
}

macro_rules! kernel_fields {
    ($($global:ident = $container:literal, $member:literal;)+) => {
        /// Every field, each needed on every kernel.
        pub const KERNEL_FIELDS: &[KernelField] = &[
            $(KernelField { global: stringify!($global), container: $container, member: $member },)+
        ];

        /// Declares the globals in the eBPF crate: `offsets!(Global)`.
        #[macro_export]
        macro_rules! declare_offsets {
            ($declare:ident) => { $($declare!($global);)+ };
        }
    };
}

kernel_fields! {
    FILE_F_PATH = "file", "f_path";
    FILE_F_MODE = "file", "f_mode";
    FILE_F_FLAGS = "file", "f_flags";
    PATH_DENTRY = "path", "dentry";
    DENTRY_D_PARENT = "dentry", "d_parent";
    DENTRY_D_NAME_LEN = "dentry", "d_name.len";
    DENTRY_D_NAME_NAME = "dentry", "d_name.name";
    DENTRY_D_INODE = "dentry", "d_inode";
    DENTRY_D_SB = "dentry", "d_sb";
    SUPER_BLOCK_S_DEV = "super_block", "s_dev";
    SUPER_BLOCK_S_ROOT = "super_block", "s_root";
    SUPER_BLOCK_S_MAGIC = "super_block", "s_magic";
    SUPER_BLOCK_S_FS_INFO = "super_block", "s_fs_info";
    INODE_I_MODE = "inode", "i_mode";
    INODE_I_FLAGS = "inode", "i_flags";
    INODE_I_INO = "inode", "i_ino";
    INODE_I_GENERATION = "inode", "i_generation";
    INODE_I_RDEV = "inode", "i_rdev";
    SOCKET_TYPE = "socket", "type";
    SOCKET_SK = "socket", "sk";
    SOCK_FAMILY = "sock", "__sk_common.skc_family";
    SOCK_PROTOCOL = "sock", "sk_protocol";
    SOCK_CGROUP = "sock", "sk_cgrp_data.cgroup";
    SOCK_NUM = "sock", "__sk_common.skc_num";
    SOCK_RCV_SADDR = "sock", "__sk_common.skc_rcv_saddr";
    SOCK_V6_RCV_SADDR = "sock", "__sk_common.skc_v6_rcv_saddr";
    SOCK_TYPE = "sock", "sk_type";
    SOCK_NET = "sock", "__sk_common.skc_net.net";
    SOCK_REUSEPORT = "sock", "sk_reuseport_cb";
    REUSEPORT_COUNT = "sock_reuseport", "num_socks";
    REUSEPORT_SOCKETS = "sock_reuseport", "socks";
    NET_COOKIE = "net", "net_cookie";
    UNIX_SOCK_ADDR = "unix_sock", "addr";
    UNIX_SOCK_PATH = "unix_sock", "path";
    UNIX_ADDRESS_LEN = "unix_address", "len";
    UNIX_ADDRESS_NAME = "unix_address", "name";
    MSGHDR_MSG_NAME = "msghdr", "msg_name";
    MSGHDR_MSG_NAMELEN = "msghdr", "msg_namelen";
    MSGHDR_MSG_FLAGS = "msghdr", "msg_flags";
    CGROUP_KN = "cgroup", "kn";
    CGROUP_PARENT = "cgroup", "self.parent";
    CGROUP_ROOT = "cgroup", "root";
    CGROUP_ROOT_HIERARCHY_ID = "cgroup_root", "hierarchy_id";
    CSS_CGROUP = "cgroup_subsys_state", "cgroup";
    KERNFS_NODE_ID = "kernfs_node", "id";
    TASK_TGID = "task_struct", "tgid";
    TASK_PID = "task_struct", "pid";
    TASK_REAL_PARENT = "task_struct", "real_parent";
    TASK_GROUP_LEADER = "task_struct", "group_leader";
    TASK_THREAD_PID = "task_struct", "thread_pid";
    PID_LEVEL = "pid", "level";
    PID_NUMBERS = "pid", "numbers";
    TASK_EXIT_CODE = "task_struct", "exit_code";
    TASK_CRED = "task_struct", "cred";
    TASK_REAL_CRED = "task_struct", "real_cred";
    TASK_MM = "task_struct", "mm";
    TASK_CGROUPS = "task_struct", "cgroups";
    TASK_SIGNAL = "task_struct", "signal";
    TASK_NSPROXY = "task_struct", "nsproxy";
    NSPROXY_MNT_NS = "nsproxy", "mnt_ns";
    MNT_NAMESPACE_NS_INUM = "mnt_namespace", "ns.inum";
    NSPROXY_IPC_NS = "nsproxy", "ipc_ns";
    IPC_NAMESPACE_NS_INUM = "ipc_namespace", "ns.inum";
    USER_NAMESPACE_LEVEL = "user_namespace", "level";
    QSTR_NAME = "qstr", "name";
    SIGNAL_LIVE = "signal_struct", "live";
    CSS_SET_DFL_CGRP = "css_set", "dfl_cgrp";
    MM_ARG_START = "mm_struct", "arg_start";
    MM_ARG_END = "mm_struct", "arg_end";
    MM_EXE_FILE = "mm_struct", "exe_file";
    SEQCOUNT_SEQUENCE = "seqcount", "sequence";
    VMA_VM_FILE = "vm_area_struct", "vm_file";
    IATTR_VALID = "iattr", "ia_valid";
    BPRM_FILE = "linux_binprm", "file";
    SK_BUFF_LEN = "sk_buff", "len";
    SK_BUFF_DATA = "sk_buff", "data";
}
