<?php
// phpLDAPadmin's configuration, made from the service's. It holds no secret: people log in as themselves.

$settings = json_decode(file_get_contents('/etc/virtual-core/directory-web.json'), true, 8, JSON_THROW_ON_ERROR);

$config->custom->appearance['page_title'] = htmlspecialchars($settings['organization']);
$config->custom->appearance['language'] = 'english';
$config->custom->appearance['hide_template_warning'] = true;
// New entries come from the service's templates, one for each place.
$config->custom->appearance['disable_default_template'] = true;
$config->custom->appearance['hide_template_regexp'] = true;
$config->custom->appearance['remoteurls'] = false;
$config->custom->appearance['tree_display_format'] = array('%rdn');
$config->custom->appearance['friendly_attrs'] = array(
    'uid' => 'Login name', 'uidNumber' => 'Number', 'gidNumber' => 'Number of the group', 'cn' => 'Name',
    'member' => 'Members', 'memberUid' => 'Members, login names',
);
// What hooks/functions/virtual-core.php refuses is not offered.
$config->custom->appearance['hide_attrs'] = array(
    'userPassword', 'sambaNTPassword', 'sambaLMPassword', 'sambaPasswordHistory', 'sambaPwdLastSet',
    'sambaPwdCanChange', 'sambaPwdMustChange', 'pwdReset', 'shadowLastChange',
);
$config->custom->appearance['readonly_attrs'] = array(
    'uidNumber', 'gidNumber', 'homeDirectory', 'sambaSID', 'sambaAcctFlags', 'shadowExpire', 'objectClass',
);

// Accounts are copied, renamed and removed with everything that belongs to them, by vcore.user_add and its like.
foreach (array(
    'copy', 'copy_form', 'delete', 'delete_form', 'rdelete', 'mass_delete', 'mass_edit', 'mass_update',
    'rename', 'rename_form', 'import', 'import_form', 'add_oclass_form', 'login_form', 'monitor', 'show_cache',
    // It would end the login, too.
    'purge_cache',
) as $command) {
    $config->custom->commands['script'][$command] = false;
}
foreach (array(
    'add_attr_form', 'add_value_form', 'collapse', 'compare', 'compare_form', 'create', 'create_confirm',
    'delete_attr', 'draw_tree_node', 'expand', 'export', 'export_form', 'login', 'logout', 'modify_member_form',
    'query_engine', 'refresh', 'schema', 'server_info', 'template_engine', 'update', 'update_confirm',
    'welcome',
) as $command) {
    $config->custom->commands['script'][$command] = true;
}
$config->custom->commands['cmd'] = array(
    'entry_internal_attributes_show' => true, 'entry_refresh' => true, 'oslinks' => false, 'switch_template' => true,
);
$config->custom->jpeg['tmpdir'] = '/dev/shm/directory-web';

$servers = new Datastore();
$servers->newServer('ldap_pla');
$servers->setValue('server', 'name', htmlspecialchars($settings['organization']));
// On this port the directory lets nobody change a password.
$servers->setValue('server', 'host', 'ldaps://ldap:1636');
$servers->setValue('server', 'base', array($settings['suffix']));
$servers->setValue('server', 'hide_noaccess_base', true);
$servers->setValue('login', 'auth_type', 'session');
$servers->setValue('login', 'attr', 'dn');
$servers->setValue('login', 'anon_bind', false);
$servers->setValue('login', 'timeout', $settings['idle_timeout']);
$servers->setValue('appearance', 'open_tree', true);
$servers->setValue('appearance', 'show_create', false);
$servers->setValue('auto_number', 'enable', false);
// slapd checks that, also if two ask at once.
$servers->setValue('unique', 'attrs', array());
unset($settings, $command);
