<?php
// The login, instead of phpLDAPadmin's own: by login name, for administrators, with a reason for each refusal.
// It runs inside cmd.php, where $app['server'] is the directory.

require './common.php';

/** Shows the login page again, with a sentence. */
function virtual_core_refuse($sentence, $status = 403) {
    session_destroy();
    header_remove('Set-Cookie');
    while (ob_get_level()) {
        ob_end_clean();
    }
    http_response_code($status);
    $refusal = $sentence;
    require '/usr/share/phpldapadmin/hooks/virtual-core-login.php';
    exit;
}

function virtual_core_note($name, $what) {
    error_log("login of $name from {$_SERVER['REMOTE_ADDR']}: $what");
}

$suffix = virtual_core_settings()['suffix'];
$name = $_POST['login'] ?? '';
$password = $_POST['password'] ?? '';
if (! is_string($name) || ! is_string($password) || ! preg_match('/^[a-z][a-z0-9_-]{0,30}$/D', $name)) {
    virtual_core_refuse('Log in with your login name, such as ada: small letters, digits, - and _.');
}
// A bind without a password is anonymous, and other directories than the core's accept it.
if ($password === '' || strlen($password) > 1024) {
    virtual_core_refuse('Type your password.');
}
$dn = "uid=$name,ou=people,$suffix";

$connection = ldap_connect('ldaps://ldap:1636');
ldap_set_option($connection, LDAP_OPT_PROTOCOL_VERSION, 3);
$answer = @ldap_bind_ext($connection, $dn, $password, array(array('oid' => LDAP_CONTROL_PASSWORDPOLICYREQUEST)));
$controls = array();
if (! $answer || ! ldap_parse_result($connection, $answer, $code, $matched, $message, $referrals, $controls)) {
    error_log('login: the directory does not answer: ' . ldap_error($connection));
    virtual_core_refuse('The directory does not answer. Try again in a minute.', 503);
}
if ($code === 49) {
    // The same for an unknown name and for a locked account, so that nobody can find out which names exist.
    virtual_core_note($name, 'refused: the name or password is wrong, or the account is locked');
    virtual_core_refuse('The directory does not accept this name and password. After several wrong ones it accepts none for a while; a locked account is unlocked by another administrator.');
}
if ($code !== 0) {
    virtual_core_note($name, "refused: code $code");
    virtual_core_refuse('The directory does not let you in: ' . ldap_err2str($code) . '.');
}
// 2 is changeAfterReset, draft-behera-ldap-password-policy.
$policy = $controls[LDAP_CONTROL_PASSWORDPOLICYRESPONSE]['value'] ?? array();
if (($policy['error'] ?? -1) === 2) {
    virtual_core_refuse('Your first password has to be changed before you log in here: run salt-call vcore.sync_password on the file router.');
}
$own = @ldap_read($connection, $dn, '(objectClass=*)', array('shadowExpire'));
$expires = $own ? (ldap_get_entries($connection, $own)[0]['shadowexpire'][0] ?? '') : '0';
if ($expires !== '' && (int) $expires >= 0 && (int) $expires <= intdiv(time(), 86400)) {
    virtual_core_note($name, 'refused: the account is locked');
    virtual_core_refuse('This account is locked.');
}
$filter = sprintf('(member=%s)', ldap_escape($dn, '', LDAP_ESCAPE_FILTER));
$group = @ldap_read($connection, "cn=administrators,ou=groups,$suffix", $filter, array('cn'));
if (! $group || ldap_count_entries($connection, $group) !== 1) {
    virtual_core_note($name, 'refused: no administrator');
    virtual_core_refuse('These pages are for administrators: members of the group administrators. You are not one of them. To change your own password, run salt-call vcore.sync_password on the file router.');
}
ldap_unbind($connection);

// Nobody else may know the id of the session that is logged in from here on.
session_regenerate_id(true);
if (! $app['server']->login($dn, $password, 'user')) {
    virtual_core_note($name, "phpLDAPadmin's own bind failed");
    virtual_core_refuse('The directory does not answer. Try again in a minute.', 503);
}
virtual_core_note($name, 'accepted');
header('Location: /cmd.php?cmd=welcome&server_id=1');
exit;
