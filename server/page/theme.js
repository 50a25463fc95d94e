// Runs before the page is painted: the theme that was chosen last, so that nothing flashes.
(function () {
    var theme = null;
    try {
        theme = localStorage.getItem("quern-theme");
    } catch (e) { /* storage is switched off: the system's theme */ }
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
})();
