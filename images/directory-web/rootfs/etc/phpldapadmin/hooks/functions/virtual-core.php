<?php
// Who may use phpLDAPadmin, and what it does not do here. phpLDAPadmin loads this file with every page, once there is a
// session, and calls the functions that are registered as hooks at the end.

/** Attributes that belong to a password. slapd refuses them on this page's port; here the refusal gets a message. */
const VIRTUAL_CORE_PASSWORDS = array(
    'userpassword', 'sambantpassword', 'sambalmpassword', 'sambapasswordhistory', 'sambapwdlastset',
    'sambapwdcanchange', 'sambapwdmustchange', 'pwdreset', 'pwdhistory', 'pwdchangedtime', 'shadowlastchange',
);
/** Attributes that tie an account to its files, and the marks of a lock, which go together. */
const VIRTUAL_CORE_FIXED = array(
    'objectclass', 'uid', 'uidnumber', 'gidnumber', 'homedirectory', 'sambasid', 'sambaacctflags', 'shadowexpire',
);
const VIRTUAL_CORE_PASSWORD_TEXT = 'Passwords are not changed on these pages, since file sharing would keep the old one.'
    . ' People change theirs with <b>salt-call vcore.sync_password</b> on the file router; on the head,'
    . ' <b>salt-call vcore.user_reset_password NAME</b> gives somebody a first one.';

// An error in a script goes to the log: phpLDAPadmin would show it, with the arguments of every function.
set_error_handler(function ($number, $message, $file, $line) {
    if (error_reporting() & $number & ~E_DEPRECATED & ~E_USER_DEPRECATED) {
        error_log(basename($file) . ":$line: $message");
    }
    return true;
});

// Without a session there is nothing but the login page, and no session file is left behind.
if (! isset($_SESSION[APPCONFIG])) {
    virtual_core_leave();
}

function virtual_core_settings() {
    return json_decode(file_get_contents('/etc/virtual-core/directory-web.json'), true, 8, JSON_THROW_ON_ERROR);
}

/** Ends the session, and goes to the login. */
function virtual_core_leave() {
    session_destroy();
    setcookie(session_name(), '', array(
        'expires' => 1, 'path' => '/', 'secure' => true, 'httponly' => true, 'samesite' => 'Strict',
    ));
    if (($_REQUEST['meth'] ?? '') === 'ajax') {
        // What is loaded into a part of the page has to replace the whole page.
        exit('<script>window.location = "/login";</script>');
    }
    header('Location: /login');
    exit;
}

/** Lets only members of the administrators' group see any page. */
function virtual_core_guard() {
    global $app;
    $command = $_REQUEST['cmd'] ?? '';
    if ($command === 'login') {
        // nginx counts logins at the one address that sets this.
        if (($_SERVER['VIRTUAL_CORE_LOGIN'] ?? '') !== '1' || $_SERVER['REQUEST_METHOD'] !== 'POST') {
            virtual_core_leave();
        }
        return true;
    }
    if (! $app['server']->isLoggedIn('user') || ($command === 'logout')) {
        $app['server']->logout('user');
        virtual_core_leave();
    }
    // Whoever was removed from the group is logged out at the next click.
    $suffix = virtual_core_settings()['suffix'];
    $found = $app['server']->query(array(
        'base' => "cn=administrators,ou=groups,$suffix", 'scope' => 'base', 'baseok' => true, 'attrs' => array('cn'),
        'filter' => sprintf('(member=%s)', ldap_escape($app['server']->getLogin('user'), '', LDAP_ESCAPE_FILTER)),
    ), 'user');
    if (! $found) {
        virtual_core_leave();
    }
    foreach (array('new_values', 'single_item_attr', 'attr') as $key) {
        $names = $_REQUEST[$key] ?? array();
        foreach (is_array($names) ? array_keys($names) : array($names) as $name) {
            if (virtual_core_is((string) $name, VIRTUAL_CORE_PASSWORDS)) {
                virtual_core_say(VIRTUAL_CORE_PASSWORD_TEXT, 'cmd.php?cmd=welcome&server_id=1');
            }
        }
    }
    return true;
}

/** Whether an attribute, named with or without options, is one of these. */
function virtual_core_is($name, $among) {
    return in_array(strtolower(trim(explode(';', $name)[0])), $among, true);
}

/** Goes to the next page and shows a sentence (HTML) there. */
function virtual_core_say($sentence, $where = null) {
    system_message(array('title' => 'Not done', 'body' => $sentence, 'type' => 'error'), $where);
    return false;
}

function virtual_core_create($server_id, $method, $dn, $attrs) {
    $values = array();
    foreach ($attrs as $name => $value) {
        if (virtual_core_is((string) $name, VIRTUAL_CORE_PASSWORDS)) {
            return virtual_core_say(VIRTUAL_CORE_PASSWORD_TEXT);
        }
        $values[strtolower($name)] = array_values((array) $value);
    }
    $settings = virtual_core_settings();
    $kinds = array('people' => 'uid', 'groups' => 'cn');
    $numbers = array('people' => 'uidNumber', 'groups' => 'gidNumber');
    if (! preg_match('/^(uid|cn)=([^,+=\\\\]+),ou=(people|groups),(.+)$/iD', $dn, $part)
        || strcasecmp($part[4], $settings['suffix']) || strtolower($part[1]) !== $kinds[strtolower($part[3])]) {
        return virtual_core_say('People are made below ou=people by their login name, groups below ou=groups by their name.');
    }
    list(, $attribute, $name, $place) = array_map('strtolower', $part);
    if (! preg_match('/^[a-z][a-z0-9_-]{0,30}$/D', $part[2]) || $values[$attribute] !== array($part[2])) {
        return virtual_core_say('A name has at most 31 characters of a-z, 0-9, - and _, and begins with a letter.');
    }
    $reserved = preg_split('/\s+/', file_get_contents(__DIR__ . '/../reserved-names'), -1, PREG_SPLIT_NO_EMPTY);
    if (in_array($name, $reserved, true) || $name === $settings['group']) {
        return virtual_core_say(htmlspecialchars($name) . ' is a name that the system uses.');
    }
    $given = (int) ($values[strtolower($numbers[$place])][0] ?? 0);
    if ($given <= $settings['first_id'] || $given > $settings['last_id']) {
        return virtual_core_say("Numbers of people and groups are from {$settings['first_id']} + 1 to {$settings['last_id']}.");
    }
    list(, $past) = virtual_core_numbers($numbers[$place]);
    // The form was open for long. slapd itself refuses only a number that is in use.
    if (isset($past[$given]) && ! isset($past[virtual_core_next_number($numbers[$place])])) {
        return virtual_core_say("The number $given is or was somebody else's: open the form again for a free one.");
    }
    if ($place === 'people' && ($values['homedirectory'] !== array("/home/$name")
            || (int) $values['gidnumber'][0] !== $settings['first_id'])) {
        return virtual_core_say("The home of $name is /home/$name, and the first group is everybody's, {$settings['first_id']}.");
    }
    return true;
}

function virtual_core_change($server_id, $method, $dn, $attr, $oldvalue = null, $newvalue = null) {
    if (virtual_core_is($attr, VIRTUAL_CORE_PASSWORDS)) {
        return virtual_core_say(VIRTUAL_CORE_PASSWORD_TEXT);
    }
    if (virtual_core_is($attr, VIRTUAL_CORE_FIXED)) {
        return virtual_core_say(htmlspecialchars($attr) . ' does not change here: names, numbers and homes never do,'
            . ' and accounts are locked with <b>salt-call vcore.user_lock NAME</b> on the head.');
    }
    return true;
}

function virtual_core_remove($server_id, $method, $dn) {
    return virtual_core_say('Accounts are removed with their homes: <b>salt-call vcore.user_remove NAME</b> on the head.');
}

function virtual_core_rename($server_id, $method, $dn, $rdn, $container) {
    return virtual_core_say('Names do not change: files, groups and other hosts know people by them.');
}

/** Numbers in use, and all that somebody ever had, whose files may still exist; vcore.people.accounts notes them. */
function virtual_core_numbers($attribute) {
    global $app;
    $settings = virtual_core_settings();
    $used = array($settings['first_id'] => true);
    $found = $app['server']->query(array(
        'base' => $settings['suffix'], 'filter' => "($attribute=*)", 'attrs' => array($attribute),
    ), 'user');
    foreach ($found as $entry) {
        foreach ((array) array_change_key_case($entry)[strtolower($attribute)] as $number) {
            $used[(int) $number] = true;
        }
    }
    $found = $app['server']->query(array(
        'base' => "ou=numbers,{$settings['suffix']}", 'scope' => 'base', 'baseok' => true,
        'filter' => '(objectClass=*)', 'attrs' => array('description'),
    ), 'user');
    $past = $used;
    foreach ($found as $entry) {
        foreach ((array) (array_change_key_case($entry)['description'] ?? array()) as $value) {
            list($name, $number) = explode(' ', "$value ");
            if ($name === $attribute) {
                $past[(int) $number] = true;
            }
        }
    }
    return array($used, $past);
}

/** The least number that nobody ever had; if there is none, one that nobody has now. For the templates. */
function virtual_core_next_number($attribute) {
    $settings = virtual_core_settings();
    foreach (array_reverse(virtual_core_numbers($attribute)) as $avoided) {
        for ($number = $settings['first_id'] + 1; $number <= $settings['last_id']; $number++) {
            if (! isset($avoided[$number])) {
                return $number;
            }
        }
    }
    return $settings['last_id'] + 1;
}

add_hook('post_session_init', 'virtual_core_guard');
add_hook('pre_entry_create', 'virtual_core_create');
add_hook('pre_attr_add', 'virtual_core_change');
add_hook('pre_attr_modify', 'virtual_core_change');
add_hook('pre_attr_delete', 'virtual_core_change');
add_hook('pre_entry_delete', 'virtual_core_remove');
add_hook('pre_entry_rename', 'virtual_core_rename');
